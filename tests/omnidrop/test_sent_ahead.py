"""What is sent to the device ahead of its turn; the way of a clip's frames is in `tests/workers/test_workers.py`."""

from __future__ import annotations

import pytest
import torch

from omnidrop.models.sent_ahead import send_ahead


def test_on_a_cpu_nothing_travels():
    value = torch.arange(6)
    assert send_ahead(value, torch.device("cpu")).taken() is value


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_what_is_sent_is_there_when_the_working_stream_reads_it():
    device = torch.device("cuda")
    work = torch.randn(4096, 4096, device=device)
    for number in range(8):
        sent = send_ahead(torch.full((64, 1 << 20), number, dtype=torch.uint8), device)
        work = work @ work  # the device is busy meanwhile
        assert sent.taken().min() == sent.taken().max() == number
