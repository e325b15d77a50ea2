"""A tensor that travels to the device while that works on another clip.

Promises: whoever takes it has it whole, in the stream that works then, and nobody waits on the host. On a CPU nothing
travels. Knows nothing about what is sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class SentAhead:
    """A tensor that is on the device, or on its way there."""

    _value: Tensor
    _arrived: torch.cuda.Event | None

    def taken(self) -> Tensor:
        """The tensor on its device; what the current stream does next begins when it is there."""
        if self._arrived is not None:
            current = torch.cuda.current_stream(self._value.device)
            current.wait_event(self._arrived)
            # Its memory belongs to the other stream: it must not be given away while this one reads it.
            self._value.record_stream(current)
        return self._value


def send_ahead(value: Tensor, device: torch.device) -> SentAhead:
    """Send a tensor of the host's to `device`, in a stream of its own and by way of pinned memory, from which a card
    copies by itself. Raises torch's RuntimeError where either has no room."""
    if device.type != "cuda":
        return SentAhead(value, None)
    stream = _stream(device)
    with torch.cuda.stream(stream):
        sent = value.pin_memory().to(device, non_blocking=True)
        return SentAhead(sent, stream.record_event())


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One for all that is sent to a device."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
