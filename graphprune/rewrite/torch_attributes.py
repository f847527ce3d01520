"""Sizes that modules keep in attributes of their own, such as ``num_heads``: found, and set to what is left.

A forward that says ``x.view(batch, tokens, self.num_heads, self.head_dim)`` has to be told the new numbers. Which
attributes these are is not known beforehand: the module is run without computing anything, and where it first does
something else than the pruned graph, attributes of the module at fault that hold an old size are tried. The
smallest set that gives the graph is kept.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

from torch import Tensor, nn

Sizes = Mapping[int, frozenset[int]]
Key = tuple[str, str, str]
_TRIALS = 60  # per module at fault
_PARENTS = 3


@dataclass(frozen=True, slots=True)
class Setting:
    """An attribute and a value to try.

    Attributes:
        path: Path of the module.
        holder: Attribute of the module that holds an object with the attribute, "" for the module itself.
        name: Name of the attribute.
        value: What it becomes; {"size": n, "root": m} for a :class:`Size`.
    """

    path: str
    holder: str
    name: str
    value: Any


class Size(int):
    """A size that is another number where a root or a power of it is taken.

    A forward that divides by ``math.sqrt(self.head_dim)`` has to go on dividing by the root of the original size.
    """

    root: int

    def __new__(cls, size: int, root: int) -> Size:
        """A size, and the number it stands for in roots and powers."""
        out = super().__new__(cls, size)
        out.root = root
        return out

    def __reduce__(self) -> tuple[type[Size], tuple[int, int]]:
        return Size, (int(self), self.root)

    def __float__(self) -> float:
        return float(self.root)

    def __pow__(self, power: Any, modulo: Any = None) -> Any:
        return pow(self.root, power, modulo)


@dataclass
class Search:
    """Looks for attribute values with which a module does what it should.

    Attributes:
        module: The module, with its tensors cut; it is changed.
        sizes: For every module path the old sizes in it, each with the sizes it becomes.
        run: Runs the module; returns how far it came and the path of the module at fault, None when all is right.
        settings: What was set, by path, holder and name.
        before: What was there.
        guessed: What was set because it was right for another module of the class.
        tried: Modules that were at fault; nothing is guessed for them.
    """

    module: nn.Module
    sizes: Mapping[str, Sizes]
    run: Callable[[], tuple[int, str | None]]
    settings: dict[Key, Setting] = field(default_factory=dict)
    before: dict[Key, Any] = field(default_factory=dict)
    guessed: set[Key] = field(default_factory=set)
    tried: set[str] = field(default_factory=set)

    def solve(self) -> bool:
        """Set attributes until the module is right; False when there is no way on."""
        reached, fault = self.run()
        while fault is not None:
            if self._take_back(fault):
                reached, fault = self.run()
                continue
            found = self._advance(reached, fault)
            if found is None:
                return False
            self._repeat(found)
            reached, fault = self.run()
        return True

    def _take_back(self, path: str) -> bool:
        """Undo what was only guessed for a module."""
        self.tried.add(path)
        wrong = [key for key in self.guessed if key[0] == path]
        for key in wrong:
            apply_setting(self.module, replace(self.settings.pop(key), value=self.before[key]))
            self.guessed.discard(key)
        return bool(wrong)

    def _advance(self, reached: int, fault: str) -> tuple[Setting, ...] | None:
        """Set attributes of the module at fault, or of those around it, with which the run comes further."""
        rooted = tuple(self._rooted(fault))
        if rooted and self._try(rooted) > reached:
            self._keep(rooted)
            return rooted
        for path in _upwards(fault):
            options = list(candidates(self.module.get_submodule(path), path, self._sizes(path, fault)))
            for trial, chosen in enumerate(_subsets(options)):
                if trial >= _TRIALS:
                    break
                far = self._try(chosen)
                if far > reached:
                    smallest = self._smallest(chosen, far)
                    self._keep(smallest)
                    return smallest
        return None

    def _rooted(self, path: str) -> Iterator[Setting]:
        """The numbers set in a module, with the original ones in roots."""
        for key, setting in self.settings.items():
            if setting.path == path and type(setting.value) is int:
                yield replace(setting, value={"size": setting.value, "root": self.before[key]})

    def _sizes(self, *paths: str) -> Sizes:
        """Sizes of a module, and of the one at fault."""
        out: dict[int, frozenset[int]] = {}
        for path in paths:
            for old, new in self.sizes.get(path, {}).items():
                out[old] = out.get(old, frozenset()) | new
        return out

    def _try(self, chosen: Sequence[Setting]) -> float:
        undo = [apply_setting(self.module, s) for s in chosen]
        try:
            reached, fault = self.run()
        finally:
            for back in reversed(undo):
                back()
        return float("inf") if fault is None else reached

    def _smallest(self, chosen: tuple[Setting, ...], reached: float) -> tuple[Setting, ...]:
        """Without the settings that are not needed."""
        for setting in chosen:
            fewer = tuple(s for s in chosen if s is not setting)
            if len(chosen) > 1 and fewer and self._try(fewer) >= reached:
                chosen = fewer
        return chosen

    def _keep(self, chosen: Sequence[Setting]) -> None:
        for setting in chosen:
            key = (setting.path, setting.holder, setting.name)
            self.before.setdefault(key, current(self.module, setting))
            apply_setting(self.module, setting)
            self.settings[key] = setting
            self.guessed.discard(key)

    def _repeat(self, found: Sequence[Setting]) -> None:
        """Do the same to the other modules of the class, where it is clear what the values become."""
        kind = type(self.module.get_submodule(found[0].path))
        names = {(s.holder, s.name) for s in found}
        for path, module in self.module.named_modules():
            if type(module) is not kind or path in self.tried:
                continue
            if isinstance(found[0].value, dict):
                options = [s for s in self._rooted(path) if (s.holder, s.name) in names]
            else:
                left = {name for name in names if (path, *name) not in self.settings}
                options = [c for c in candidates(module, path, self.sizes.get(path, {})) if (c.holder, c.name) in left]
            if len(options) == len({(c.holder, c.name) for c in options}):
                self._keep(options)
                self.guessed |= {(c.path, c.holder, c.name) for c in options}


def candidates(module: nn.Module, path: str, sizes: Sizes) -> Iterator[Setting]:
    """Attributes of a module, and of plain objects it holds, that contain a size which changes."""
    for name, value in list(vars(module).items()):
        if name.startswith("_") and name != "_config":
            continue
        for new in _changed(value, sizes):
            yield Setting(path, "", name, new)
    for holder, thing in list(vars(module).items()):
        if hasattr(thing, "__dict__") and not isinstance(thing, Tensor | nn.Module | type) and not callable(thing):
            for name, value in list(vars(thing).items()):
                for new in _changed(value, sizes):
                    yield Setting(path, holder, name, new)


def _changed(value: Any, sizes: Sizes) -> Iterator[Any]:
    """What a number, or a list of numbers, may become."""
    if type(value) is int:
        yield from sorted(sizes.get(value, ()))
    elif isinstance(value, tuple | list) and value and all(type(v) is int for v in value):
        kind: Any = type(value)
        for old in dict.fromkeys(value):
            for new in sorted(sizes.get(old, ())):
                made = [new if v == old else v for v in value]
                yield kind(*made) if hasattr(value, "_fields") else kind(made)


def current(root: nn.Module, setting: Setting) -> Any:
    """What an attribute holds now."""
    owner: Any = root.get_submodule(setting.path)
    holder = owner.__dict__[setting.holder] if setting.holder else owner
    return vars(holder)[setting.name]


def apply_setting(root: nn.Module, setting: Setting) -> Callable[[], None]:
    """Set an attribute; the function returned takes that back.

    An object that holds the attribute is copied for this module: others may share it.
    """
    owner: Any = root.get_submodule(setting.path)
    before = owner.__dict__[setting.holder or setting.name]
    value = Size(**setting.value) if isinstance(setting.value, dict) else setting.value
    if setting.holder:
        mine = copy.copy(before)
        setattr(mine, setting.name, value)
        owner.__dict__[setting.holder] = mine
    else:
        owner.__dict__[setting.name] = value

    def undo() -> None:
        owner.__dict__[setting.holder or setting.name] = before

    return undo


def _upwards(path: str) -> list[str]:
    """A path and those of some modules around it."""
    out = [path]
    while path and len(out) <= _PARENTS:
        path = path.rpartition(".")[0]
        out.append(path)
    return out


def _subsets(options: Sequence[Setting]) -> Iterator[tuple[Setting, ...]]:
    """All that are unambiguous at once, then one, two, three at a time."""
    count: dict[tuple[str, str], int] = {}
    for s in options:
        count[s.holder, s.name] = count.get((s.holder, s.name), 0) + 1
    clear = tuple(s for s in options if count[s.holder, s.name] == 1)
    own = tuple(s for s in clear if not s.holder)
    yield from (c for c in ([own] if own == clear else [own, clear]) if c)
    for size in (1, 2, 3):
        for chosen in combinations(options, size):
            if len({(s.holder, s.name) for s in chosen}) == size:
                yield chosen
