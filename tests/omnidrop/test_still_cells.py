"""What stands still: which cells are versions of an earlier one, that they are encoded once, and that all of a page of
writing is seen before anything of it is seen again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from benchmarks.written_pages import coverage, page, still
from omnidrop.estimate import Estimator
from omnidrop.model import OmniModel, Request
from omnidrop.models.base import VIDEO, ClipPrompt, SomeOf
from omnidrop.models.registry import load
from omnidrop.models.still_cells import looks, versions
from omnidrop.policies import likeness
from omnidrop.policies.intra_modality import choose_cells
from omnidrop.pruning import Pruning
from omnidrop.questions import Boolean, Question
from tests.support.small_checkpoints import write_checkpoint

ASKED = (Question("a", "Is it red?", Boolean()),)
HEIGHT, WIDTH = 168, 224


@pytest.fixture(scope="module", params=["qwen2_5_omni", "qwen3_omni_moe"])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pixels = (64 * 64, HEIGHT * WIDTH)
    return write_checkpoint(tmp_path_factory.mktemp("still") / request.param, request.param, pixels=pixels)


@pytest.fixture(scope="module")
def adapter(directory: Path) -> Any:
    return load(str(directory), dtype="float32")


@pytest.fixture(scope="module")
def tiny() -> OmniModel:
    return OmniModel.load("tiny", device="cpu", dtype="float32")


def prefix_of(adapter: Any, frames: Any, some_of: SomeOf) -> Any:
    return adapter.prefix(frames, None, ClipPrompt(2.0), some_of=some_of)


def moving_inset(patches: int, noise: float = 0.0) -> npt.NDArray[np.uint8]:
    """A page that stands still, but for a corner that is new in every temporal patch; twice as many frames."""
    frames = still([page(3, 5, HEIGHT, WIDTH)], 2 * patches, noise)
    corner = np.random.default_rng(1).integers(0, 256, (patches, 56, 56, 3), dtype=np.uint8)
    frames[:, :56, -56:] = np.repeat(corner, 2, axis=0)
    return frames


def test_a_cell_is_compared_with_the_one_that_was_encoded() -> None:
    # One place: slow change does not drift past, and what comes back is another version than what it came from.
    shown = [0, 1, 2, 3, 4, 3, 2, 5, 0]
    of_place = torch.tensor(shown, dtype=torch.float32).view(-1, 1, 1)
    assert versions(of_place, 2.0).tolist() == [0, 0, 0, 3, 3, 3, 3, 3, 8]
    assert versions(of_place, 0.0).tolist() == list(range(9))
    # The largest difference of any part decides, place by place.
    two = torch.zeros(3, 2, 4)
    two[1, 1, 3] = 9.0
    assert versions(two, 2.0).tolist() == [0, 1, 0, 3, 0, 5]


def test_looks_are_means_of_pixels_in_levels(adapter: Any) -> None:
    frames = np.random.default_rng(0).integers(100, 150, (2, HEIGHT, WIDTH, 3), dtype=np.uint8)
    rows, columns = adapter.geometry.grid(2, HEIGHT, WIDTH)[1:]

    def look(shown: npt.NDArray[np.uint8]) -> torch.Tensor:
        return looks(adapter.processor.pixels(shown)[0], rows * columns, 2, adapter.processor.deviation)

    found = look(frames)
    assert found.shape == (rows * columns, 96)
    torch.testing.assert_close(look(frames + 5) - found, torch.full_like(found, 5.0), atol=0.05, rtol=0)


@pytest.mark.parametrize("noise", [0.0, 1.5])
def test_what_stands_still_is_encoded_once(adapter: Any, noise: float) -> None:
    adapter.memory.clear()
    frames = moving_inset(6, noise)
    rows, columns = adapter.geometry.grid(12, HEIGHT, WIDTH)[1:]
    found = prefix_of(adapter, frames, SomeOf(90, choose_cells, still_levels=2.0))
    first = found.versions.view(6, -1)
    is_own = found.versions == torch.arange(len(found.versions))
    # The first picture and the changing corner; what is resized together with the corner changes with it.
    count = int(is_own.sum())
    assert rows * columns + 5 * 2 * 2 <= count <= rows * columns + 5 * 3 * 3
    assert found.encoded.all()
    seen = found.embeddings[found.modality == VIDEO]
    assert torch.equal(seen, seen[found.versions])
    for rows_of in found.deepstack:
        deep = rows_of[found.modality == VIDEO]
        assert torch.equal(deep, deep[found.versions])
    assert torch.equal(first[1:, 0], first[:-1, 0])
    cells = f"{count} of {len(found.versions)}"
    assert found.notes[0] == f"lossy: {cells} cells of the picture were encoded"
    assert found.notes[1] == (
        f"lossy: {len(found.versions) - count} cells took the features of earlier ones of their place within 2 levels"
    )
    embedded = len(found.versions)
    assert found.encoder_flops == adapter.geometry.vision_flops(6, rows, columns, cells=count, embedded=embedded)
    # Positions are each moment's own.
    whole = adapter.prefix(frames, None, ClipPrompt(2.0))
    assert torch.equal(found.positions, whole.positions)


def test_fewer_cells_than_versions_go_to_different_ones(adapter: Any) -> None:
    frames = moving_inset(6)
    found = prefix_of(adapter, frames, SomeOf(40, choose_cells, still_levels=2.0))
    stands = torch.arange(len(found.versions)) == found.versions
    assert int((stands & found.encoded).sum()) == 40
    # A version is there at all of its moments or at none.
    assert torch.equal(found.encoded, found.encoded[found.versions])


def test_where_nothing_repeats_nothing_changes(adapter: Any) -> None:
    frames = np.random.default_rng(5).integers(0, 256, (12, HEIGHT, WIDTH, 3), dtype=np.uint8)
    adapter.memory.clear()
    one = prefix_of(adapter, frames, SomeOf(60, choose_cells))
    adapter.memory.clear()
    other = prefix_of(adapter, frames, SomeOf(60, choose_cells, still_levels=2.0))
    assert torch.equal(one.embeddings, other.embeddings)
    assert (other.versions, other.notes, other.encoder_flops) == (None, one.notes, one.encoder_flops)


@pytest.mark.parametrize(("share", "levels"), [(0.35, 2.0), (1.0, 2.0)])
def test_a_plan_prices_as_if_nothing_stood_still(directory: Path, share: float, levels: float) -> None:
    model = OmniModel.load(str(directory), device="cpu", dtype="float32")
    pruning = Pruning(retained_ratio=0.4, encoder_share=share, still_levels=levels)
    size = {"frames": 12, "height": HEIGHT, "width": WIDTH, "samples": 0, "fps": 2.0}
    priced = Estimator(str(directory), value_bytes=4).clip(ASKED, pruning, **size)  # type: ignore[arg-type]
    noise = np.random.default_rng(5).integers(0, 256, (12, HEIGHT, WIDTH, 3), dtype=np.uint8)
    for frames, is_still in ((noise, False), (moving_inset(6), True)):
        got = model.answer(frames, None, Request(ASKED, fps=2.0, pruning=pruning))
        assert (got.cost.dense, got.cost.dense_shared) == (priced.dense, priced.dense_shared)
        assert got.cost.as_run.prefill_flops == priced.as_run.prefill_flops
        if is_still:
            assert got.cost.as_run.encoder_flops < priced.as_run.encoder_flops
        else:
            assert got.cost.as_run == priced.as_run


def test_sets_and_batches_agree_with_what_stands_still(directory: Path) -> None:
    model = OmniModel.load(str(directory), device="cpu", dtype="float32")
    sound = np.random.default_rng(0).normal(0, 0.1, 96_000).astype(np.float32)
    clips = [(moving_inset(6), sound), (moving_inset(6)[::-1].copy(), sound)]
    request = Request(ASKED, fps=2.0, pruning=Pruning(retained_ratio=0.4, encoder_share=0.35), positions=True)
    together = model.answer_batch(clips, request)
    for clip, one in zip(clips, together, strict=True):
        alone = model.answer(*clip, request)
        assert one.positions is not None
        assert alone.positions is not None
        for mine, other in zip(one.positions.kept[0], alone.positions.kept[0], strict=True):
            assert mine.tolist() == other.tolist()


@pytest.mark.parametrize("noise", [0.0, 2.0])
@pytest.mark.parametrize(("entry", "share"), [("cover", 1.0), ("rare", 0.35)])
@pytest.mark.parametrize(
    ("lines", "ratio", "least"),
    [
        ((9,), 0.3, 1.0),
        ((12,), 0.2, 1.0),
        ((3,), 0.1, 1.0),
        ((9, 5), 0.2, 1.0),
        ((12, 3, 6), 0.3, 1.0),
        ((9, 5), 0.1, 0.7),
    ],
)
def test_a_page_of_writing_that_stands_still_is_seen_whole(
    tiny: OmniModel, lines: tuple[int, ...], ratio: float, least: float, entry: str, share: float, noise: float
) -> None:
    """Its cells enter once before any enters twice: chosen moment by moment, the same third of it entered each time."""
    shown = [page(number, count, 252, 448) for number, count in enumerate(lines)]
    frames = still(shown, 24 // len(shown), noise)
    settings = () if entry == "cover" else (("entry", entry),)
    pruning = Pruning(retained_ratio=ratio, settings=settings, encoder_share=share, still_levels=2.0)
    found = tiny.answer(frames, None, Request(ASKED, fps=2.0, pruning=pruning, positions=True))
    trace = found.positions
    assert trace is not None
    assert trace.encoded is not None
    assert trace.is_still is not None
    cells = (trace.encoded & ~trace.is_still).sum()
    # A page is 28 cells, of 336 in all: it is encoded whole for as many.
    assert cells == 28 * len(shown)
    assert coverage(trace, np.flatnonzero(trace.encoded & ~trace.is_still), shown) == 1.0
    assert coverage(trace, trace.kept[0][0], shown) >= least
    # And a token that enters first does so at the moment at which its cell was encoded.
    entered = trace.kept[0][0]
    firsts = entered[~trace.is_still[entered]]
    assert len(firsts) == min(len(entered), cells)


def test_copies_do_not_make_noisy_features_look_clean() -> None:
    draw = torch.Generator().manual_seed(0)
    kinds = torch.randn(2, 64, generator=draw).repeat_interleave(10, dim=0)
    noisy = kinds + 0.7 * torch.randn(20, 64, generator=draw)
    copied, own = noisy.repeat(30, 1), torch.arange(600) < 20
    _, alone = likeness.unit_and_scale(noisy)
    _, among_copies = likeness.unit_and_scale(copied, own)
    assert float(among_copies) == pytest.approx(float(alone))
    assert float(alone) < 0.85 < 0.95 < float(likeness.unit_and_scale(copied)[1])
