"""Times over widths: what is fitted to a few samples tells the time at all others."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from graphprune.cost.alignment import favoured_alignment
from graphprune.cost.staircase import Staircase, disturbed, favoured, widths
from graphprune.cost.stopwatch import Shape, Times
from graphprune.cost.times import TimesFile
from graphprune.graph.pairing import paired
from graphprune.graph.timing import Machine, Setting

HERE = Machine("Test CPU", "1.0", "CPUExecutionProvider", 1)


def blocked(block: int, slow: float = 3.0):  # type: ignore[no-untyped-def]
    """Time of a kernel that works in blocks, and gives way to a slower one for widths that are no multiple of 4."""

    def seconds(*at: int) -> float:
        work = 1e-9 * np.prod([-(-w // block) * block for w in at], dtype=np.float64) + 1e-6
        return float(work * (slow if any(w % 4 for w in at) else 1.0))

    return seconds


@pytest.mark.parametrize("sizes", [(64,), (160,), (960,), (64, 96), (128, 512), (24, 144)])
@pytest.mark.parametrize("block", [1, 8, 16])
def test_a_kernel_in_blocks_is_found_from_few_samples(sizes: tuple[int, ...], block: int) -> None:
    true = blocked(block)
    at = widths(sizes)
    fitted = Staircase.fitted(sizes, at, [true(*w) for w in at])
    assert len(at) < 70
    rng = np.random.default_rng(0)
    places = np.stack([rng.integers(5, n + 1, 300) // 4 * 4 for n in sizes], axis=1)
    wanted = np.array([true(*(min(w, n) for w, n in zip(p, sizes, strict=True))) for p in places.tolist()])
    off = np.abs(np.log(fitted(places.astype(np.float64)) / wanted))
    assert np.median(off) < 0.03
    assert np.quantile(off, 0.9) < 0.15


def test_widths_that_the_kernel_cannot_take_cost_what_they_cost() -> None:
    true = blocked(16, slow=5.0)
    at = widths((256,))
    fitted = Staircase.fitted((256,), at, [true(*w) for w in at])
    odd = np.arange(101, 255, 2, dtype=np.float64)[:, None]
    assert np.allclose(fitted(odd), [true(int(w)) for w in odd[:, 0]], rtol=0.15)


def test_samples_are_met_on_the_grid() -> None:
    at = list(product(favoured(64, (0.25, 0.5, 1.0)), favoured(96, (0.25, 0.5, 1.0))))
    seconds = [blocked(16)(*w) for w in at]
    assert np.allclose(Staircase.fitted((64, 96), at, seconds)(np.array(at, np.float64)), seconds)


def test_a_disturbed_sample_shows_and_does_not_count() -> None:
    at = widths((128,))
    known = {w: blocked(16)(*w) for w in at}
    assert disturbed((128,), known) == pytest.approx(0.0)
    known[64,] *= 4
    assert disturbed((128,), known) > 1.0
    fitted = Staircase.fitted((128,), list(known), list(known.values()))
    assert fitted(np.array([[64.0]]))[0] <= blocked(16)(80) * 1.001


def test_no_grid_no_staircase() -> None:
    with pytest.raises(ValueError, match="no samples at the full widths"):
        Staircase.fitted((64,), [(32,)], [1.0])


@pytest.mark.parametrize(("block", "slow", "wanted"), [(16, 3.0, 16), (8, 3.0, 8), (4, 3.0, 4), (1, 3.0, 4), (1, 1, 1)])
def test_the_favoured_alignment_is_that_of_the_kernel(block: int, slow: float, wanted: int, tmp_path: Path) -> None:
    calls = []

    def stopwatch(shape: Shape, at: list[tuple[int, ...]]) -> Times:
        calls.append(shape)
        return {w: blocked(block, slow)(*w) for w in at}

    for _ in range(2):
        assert favoured_alignment(Setting(), stopwatch=stopwatch, times=TimesFile(HERE, tmp_path)) == wanted  # type: ignore[arg-type]
    assert len(calls) == 1  # the second time from the file


def test_times_are_kept_by_machine(tmp_path: Path) -> None:
    notes: list[str] = []
    file = TimesFile(HERE, tmp_path, notes.append)
    file.put("key", {"operator": "Conv"}, {(4, 8): 0.5})
    file.flush()
    assert TimesFile(HERE, tmp_path, notes.append).get("key") == {(4, 8): 0.5}
    assert notes == []
    other = Machine("Other CPU", "1.0", "CPUExecutionProvider", 1)
    strange = TimesFile(other, tmp_path, notes.append)
    assert strange.get("key") is None
    assert len(notes) == 1
    assert "times of another machine; ignored" in notes[0]
    strange.flush()
    assert TimesFile(HERE, tmp_path).get("key") == {(4, 8): 0.5}  # nothing of this machine is lost


def test_a_copied_or_broken_file_of_times_is_left_out(tmp_path: Path) -> None:
    file = TimesFile(HERE, tmp_path)
    file.put("key", {}, {(4,): 0.5})
    file.flush()
    other = TimesFile(Machine("Other CPU", "1.0", "CPUExecutionProvider", 1), tmp_path).path
    other.write_bytes(file.path.read_bytes())
    notes: list[str] = []
    copied = TimesFile(Machine("Other CPU", "1.0", "CPUExecutionProvider", 1), tmp_path, notes.append)
    assert copied.get("key") is None
    assert "another machine (Test CPU" in notes[0]
    file.path.write_text('{"version": 1')
    assert TimesFile(HERE, tmp_path, notes.append).get("key") is None
    assert "not a readable cache" in notes[1]


def test_paired_runs_see_through_a_machine_that_slows_down() -> None:
    class World:
        now, speed = 0.0, 1.0

        def run(self, seconds: float) -> None:
            self.now += seconds / self.speed
            self.speed *= 0.99

    world = World()
    found = paired(
        lambda: world.run(1.0), lambda: world.run(0.6), seconds=0.0, rounds=(40, 40), clock=lambda: world.now
    )
    assert found.ratio == pytest.approx(0.6, rel=0.02)
    assert found.seconds[0] > 1.1
