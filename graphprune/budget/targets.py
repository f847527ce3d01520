"""Targets and constraints as users write them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from graphprune.cost.model import Costs
from graphprune.errors import InputError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_SAID = {"size": "bytes", "memory": "bytes of activations at its peak"}
_NUMBER = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z%]*)\s*")

Amount = str | float | int


@dataclass(frozen=True, slots=True)
class Targets:
    """What the pruned model may cost; None leaves a cost free. All given targets must hold.

    A percent is the share that remains; ``ratio`` is the share of channels that every group loses.

    Attributes:
        macs: "50%", "1.2G" or a number of MACs.
        params: "50%", "5M" or a number of parameters.
        size: "50%", "20MB" or a number of bytes of the written file.
        memory: "50%", "8MB" or a number of bytes of activations at the peak.
        latency: "60%" of the original's time, or "8ms".
        ratio: "30%" or 0.3.
    """

    macs: Amount | None = None
    params: Amount | None = None
    size: Amount | None = None
    memory: Amount | None = None
    latency: Amount | None = None
    ratio: Amount | None = None

    def limits(self, dense: Costs, file_bytes: Callable[[], int]) -> dict[str, int]:
        """Absolute limits by cost name ("macs", "params", "bytes", "memory").

        Args:
            dense: Costs of the original.
            file_bytes: Returns the size of the original file; what is not weights is kept as overhead.

        Raises:
            InputError: A target cannot be read, is not below the original, or none is given.
        """
        if all(v is None for v in (self.macs, self.params, self.size, self.memory, self.latency, self.ratio)):
            raise InputError(
                "no target: give at least one of --macs, --params, --size, --memory, --latency, --ratio, or --lossless"
            )
        written = file_bytes() if self.size is not None else dense.bytes
        overhead = max(written - dense.bytes, 0)
        out: dict[str, int] = {}
        for name, key, amount, whole in (
            ("macs", "macs", self.macs, dense.macs),
            ("params", "params", self.params, dense.params),
            ("size", "bytes", self.size, written),
            ("memory", "memory", self.memory, dense.memory),
        ):
            if amount is not None:
                limit = int(parse_amount(name, amount, whole))
                if limit >= whole:
                    unit = _SAID.get(name, name)
                    raise InputError(f"--{name} {amount} is met already: the model has {whole:,} {unit}")
                out[key] = max(limit - overhead, 0) if name == "size" else limit
        return out

    def size_limit(self, file_bytes: Callable[[], int]) -> int:
        """The size target in bytes, 0 when there is none."""
        return 0 if self.size is None else int(parse_amount("size", self.size, file_bytes()))

    def removed_share(self) -> float | None:
        """``ratio`` as a fraction in (0, 1).

        Raises:
            InputError: It is not a fraction.
        """
        if self.ratio is None:
            return None
        value = parse_amount("ratio", self.ratio, 1.0)
        if not 0 < value < 1:
            raise InputError(f"--ratio {self.ratio}: the removed share must lie between 0 and 1 (0.3 or 30%)")
        return float(value)


def parse_amount(name: str, amount: Amount, whole: float) -> int | float:
    """A target as a number: percent of ``whole``, or absolute with K/M/G/T or byte units."""
    text = str(amount)
    match = _NUMBER.fullmatch(text)
    bad = InputError(f"--{name} {text}: cannot be read; write 50%, 1.2G or a plain number")
    if match is None:
        raise bad
    value, unit = float(match[1]), match[2].upper()
    if not math.isfinite(value):
        raise bad
    if unit == "%":
        if not 0 < value <= 100:
            raise InputError(f"--{name} {text}: a percent lies between 0 and 100")
        return value / 100 * whole if whole <= 1 else int(value / 100 * whole)
    if name in _SAID and (unit in _BYTES or unit in _UNITS):
        value *= _BYTES.get(unit, 0) or _UNITS[unit]
    elif unit in _UNITS:
        value *= _UNITS[unit]
    else:
        raise bad
    if value <= 0:
        raise InputError(f"--{name} {text}: must be above zero")
    return value if name == "ratio" else int(value)


@dataclass(frozen=True, slots=True)
class Constraints:
    """What every solution must respect.

    Attributes:
        align: Kept widths are multiples of this where a group is wide enough; 1 frees them.
        max_step: Largest step between two widths of a group, as a share of it; for narrower ones alignment is halved.
        min_channels: Units every group keeps at least.
        max_ratio: Largest share of units a group may lose.
        ignore: Regular expressions; nodes, weights and module paths that match stay whole.
        only: Regular expressions; only units of matching nodes, weights and module paths may leave.
        shared_offsets: Every convolution group, head or norm group loses the same offsets, even where each could
            keep its own.
        width: Floors and ceilings of groups, "PATTERN=16:48"; what a pattern matches, see
            :func:`graphprune.budget.selection.width_bounds`.
        equal: Patterns whose groups keep the same width; those with brackets make a class of each text captured.
    """

    align: int = 16
    max_step: float = 0.25
    min_channels: int = 1
    max_ratio: float = 0.9
    ignore: tuple[str, ...] = field(default=())
    only: tuple[str, ...] = field(default=())
    shared_offsets: bool = False
    width: tuple[str, ...] = field(default=())
    equal: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.align < 1:
            raise InputError(f"--align {self.align}: must be 1 or more")
        if self.min_channels < 1:
            raise InputError(f"--min-channels {self.min_channels}: must be 1 or more")
        if not 0 < self.max_ratio <= 1:
            raise InputError(f"--max-ratio {self.max_ratio}: must lie in (0, 1]")
        if not 0 < self.max_step <= 1:
            raise InputError(f"--max-step {self.max_step}: must lie in (0, 1]")
