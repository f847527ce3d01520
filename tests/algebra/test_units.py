"""The algebra keeps its word: whatever leaves, every stated relation holds; and known cases keep their freedom."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphprune.algebra import Axis, Reason, Units, eq, product
from graphprune.algebra.axis import signature
from tests.algebra.machine import Machine

QUICK = settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
MAX_LENGTH = 24


# -- soundness, by brute force ------------------------------------------------------------------
def _step(draw: st.DrawFn, m: Machine) -> None:
    """One more relation between axes that are there."""
    a = draw(st.sampled_from(m.axes))
    kinds = ["fresh", "index", "concat", "merge", "freeze"]
    equal = [b for b in m.axes if b.n == a.n and b is not a]
    cuts = [d for d in range(2, a.n) if a.n % d == 0]
    kinds += ["eq"] * 4 if equal else []
    kinds += ["split"] * 4 if cuts else []
    kind = draw(st.sampled_from(kinds))
    if kind == "fresh":
        m.fresh(draw(st.sampled_from([2, 3, 4, 6, 8, 12])))
    elif kind == "freeze" and draw(st.integers(0, 3)) == 0:
        m.freeze(a)
    elif kind == "eq":
        m.eq(a, draw(st.sampled_from(equal)))
    elif kind == "split":
        m.split(a, draw(st.sampled_from(cuts)))
    elif kind == "index":
        n = draw(st.sampled_from([2, 4, 6, 12]))
        m.index(a, draw(st.lists(st.integers(-1, a.n - 1), min_size=n, max_size=n)))
    else:
        b = draw(st.sampled_from(m.axes))
        if kind == "concat" and a.n + b.n <= MAX_LENGTH:
            m.concat(a, b)
        elif kind == "merge" and a.n * b.n <= MAX_LENGTH:
            m.merge(a, b)


@st.composite
def programs(draw: st.DrawFn) -> Machine:
    """Random relations between random axes."""
    m = Machine()
    for _ in range(2):
        m.fresh(draw(st.sampled_from([2, 3, 4, 6, 12])))
    for _ in range(draw(st.integers(2, 12))):
        _step(draw, m)
    return m


@QUICK
@given(programs())
def test_relations_hold_for_every_removal(m: Machine) -> None:
    assert m.check() > 0


@pytest.mark.long
@settings(QUICK, max_examples=20_000, derandomize=False)
@given(programs())
def test_relations_hold_for_every_removal_long(m: Machine) -> None:
    assert m.check() > 0


@QUICK
@given(programs())
def test_frozen_positions_have_a_reason(m: Machine) -> None:
    for axis in m.axes:
        free = m.columns(axis).any(axis=1)
        assert not m.store.why(axis)[free].any()
        resolved = m.store.resolve(axis)
        assert resolved.units is None or resolved.units.any(axis=0).all(), "an empty column was kept"


def test_columns_that_share_units_after_nested_splits() -> None:
    """Splitting one column binds the units of the next: found at random, minimised."""
    m = Machine()
    a, b = m.fresh(4), m.fresh(6)
    both = m.concat(a, b)
    halves = [m.split(a, 2) for _ in range(3)]
    m.eq(*halves[0])
    m.split(both, 2)
    m.check()


def test_columns_that_share_a_unit() -> None:
    """The same, with a unit that the second column repeats at every other position."""
    m = Machine()
    a, b = m.fresh(6), m.fresh(12)
    m.eq(b, m.merge(a, m.index(a, [0, -1])))
    m.split(b, 2)
    m.check()


def test_columns_of_a_square() -> None:
    """The same, behind an axis that is its own product."""
    m = Machine()
    a, b = m.fresh(6), m.fresh(2)
    m.eq(m.index(a, [0, 2, 4, 1]), m.merge(b, b))
    m.split(a, 2)
    m.check()


# -- equality -----------------------------------------------------------------------------------
@given(st.permutations(range(6)))
@settings(QUICK, max_examples=20)
def test_permutations_lose_nothing(perm: list[int]) -> None:
    m = Machine()
    a, b = m.fresh(6), m.fresh(6)
    m.eq(m.index(a, perm), b)
    assert m.check() == 2**6
    assert m.kinds(a) == m.kinds(b) == [6]


def test_equal_axes_are_one() -> None:
    m = Machine()
    a, b, c = m.fresh(5), m.fresh(5), m.fresh(5)
    m.eq(a, b)
    m.eq(b, c)
    assert len(m.units()) == 5
    np.testing.assert_array_equal(m.columns(a), m.columns(c))


def test_a_frozen_side_freezes_the_other() -> None:
    m = Machine()
    a, b = m.fresh(4), m.frozen(4)
    m.eq(a, b)
    assert m.store.resolve(a).units is None
    assert set(m.store.why(a)) == {m.why}


def test_partly_frozen() -> None:
    """Concat of frozen and free positions against free ones: only the frozen places freeze."""
    m = Machine()
    mixed = m.concat(m.frozen(2), m.fresh(3))
    a = m.fresh(5)
    m.eq(a, mixed)
    assert m.check() == 2**3
    assert m.columns(a).any(axis=1).tolist() == [False, False, True, True, True]


def test_ties_inside_an_axis() -> None:
    """An axis that repeats positions ties the positions of its equal."""
    m = Machine()
    a, b = m.fresh(3), m.fresh(6)
    m.eq(m.index(a, [0, 1, 2, 2, 1, 0]), b)
    assert m.check() == 2**3


def test_freezing_for_no_reason_freezes() -> None:
    """A split side without units of its own has reason 0; what is put beside it must not set it free."""
    m = Machine()
    tied = m.index(m.fresh(1), [0] * 10)
    outer, _ = m.split(tied, 5)
    side = m.concat(outer, m.fresh(2))
    m.eq(side, m.fresh(7))
    m.check()
    assert m.columns(side).any(axis=1).tolist() == [False] * 5 + [True] * 2


# -- products -----------------------------------------------------------------------------------
def test_heads_and_dims() -> None:
    """A plain axis seen as 4 x 6 keeps 4 heads and 6 dims, removable together."""
    m = Machine()
    rows = m.fresh(24)
    heads, dims = m.split(rows, 4)
    assert m.check() == 2**10
    assert (m.kinds(heads), m.kinds(dims), m.kinds(rows)) == ([4], [6], [4, 6])


def test_conflicting_factors_freeze() -> None:
    m = Machine()
    rows = m.fresh(12)
    m.split(rows, 3)
    m.split(rows, 4)
    assert m.check() == 1
    assert not m.units()


def test_nested_factors_refine() -> None:
    """24 as 4 x 6 and then as 2 x 12 is 2 x 2 x 6."""
    m = Machine()
    rows = m.fresh(24)
    heads, dims = m.split(rows, 4)
    coarse, fine = m.split(rows, 2)
    assert m.check() == 2**10
    assert (m.kinds(rows), m.kinds(heads), m.kinds(coarse), m.kinds(fine)) == ([2, 2, 6], [2, 2], [2], [2, 6])
    assert m.kinds(dims) == [6]


def test_three_factors_in_two_steps() -> None:
    """3 x heads x dims, with the three frozen, as fused projections have it."""
    m = Machine()
    rows = m.fresh(96)
    three, rest = m.split(rows, 3)
    heads, dims = m.split(rest, 4)
    m.freeze(three)
    assert m.check(4096) == 2**12
    assert (m.kinds(heads), m.kinds(dims), m.kinds(rows)) == ([4], [8], [4, 8])


def test_gates() -> None:
    """Four gates stacked: one unit takes the same row of each."""
    m = Machine()
    hidden = m.fresh(5)
    m.eq(m.fresh(20), m.merge(m.frozen(4), hidden))
    assert m.check() == 2**5


def test_blocks_of_a_concat() -> None:
    """Two halves put together and split as 2 x 5: no half leaves alone, both lose the same offsets."""
    m = Machine()
    both = m.concat(m.fresh(5), m.fresh(5))
    outer, inner = m.split(both, 2)
    assert m.check() == 2**7
    assert (m.kinds(outer), m.kinds(inner)) == ([2], [5])


@pytest.mark.parametrize("shape", [(2, 3), (4, 2), (3, 4), (2, 2, 3), (3, 2, 2)])
def test_merge_then_split_is_the_identity(shape: tuple[int, ...]) -> None:
    m = Machine()
    factors = [m.fresh(n) for n in shape]
    rest = factors[0]
    for factor in factors[1:]:
        rest = m.merge(rest, factor)
    found = []
    for n in shape[:-1]:
        first, rest = m.split(rest, n)
        found.append(first)
    for mine, theirs in zip([*found, rest], factors, strict=True):
        np.testing.assert_array_equal(m.columns(mine), m.columns(theirs))
    assert len(m.units()) == sum(shape)
    assert m.check(4096) == 2 ** sum(shape) or prod(shape) > 12


def test_a_plain_axis_refines_to_a_product() -> None:
    """One unit per position against heads x dims: the positions are bound, nothing else is lost."""
    m = Machine()
    plain, heads, dims = m.fresh(6), m.fresh(2), m.fresh(3)
    m.eq(plain, m.merge(heads, dims))
    assert m.check() == 2**5
    assert m.kinds(plain) == [2, 3]


def test_heads_against_heads_and_dims() -> None:
    """Only the heads can be matched; the dims are given up, the heads stay."""
    m = Machine()
    heads, dims = m.fresh(3), m.fresh(4)
    repeated = m.merge(heads, m.frozen(4))
    m.eq(repeated, m.merge(heads, dims))
    assert m.check() == 2**3
    assert m.kinds(heads) == [3]


def test_channel_multipliers_never_collapse() -> None:
    """A chain of doublings stays within the column limit, and the channels themselves stay free."""
    m = Machine()
    base = axis = m.fresh(6)
    for _ in range(4):
        axis = m.merge(axis, m.fresh(2))
    m.eq(m.fresh(96), axis)
    m.check()
    assert m.kinds(base) == [6]
    m = Machine()
    axis = base = m.fresh(3)
    for _ in range(9):
        axis = m.merge(axis, m.fresh(2))
    m.eq(m.fresh(3 * 2**9), axis)
    m.check(64)
    assert m.kinds(base) == [3]


# -- dynamic products ---------------------------------------------------------------------------
def test_dynamic_products_match_factor_by_factor() -> None:
    store = Units()
    why = store.reason(Reason("test", "", "because"))
    batch, a, b = store.frozen(2, why), store.fresh(4), store.fresh(4)
    left, right = (product(store, [(batch, True), (x, False)]) for x in (a, b))
    assert (left.n, left.frozen) == (8, False)
    eq(store, left, right, why)
    np.testing.assert_array_equal(store.resolve(a).units, store.resolve(b).units)


@pytest.mark.parametrize("plain", [True, False])
def test_dynamic_products_of_other_factors_freeze(plain: bool) -> None:
    store = Units()
    why = store.reason(Reason("test", "", "because"))
    batch, a, b = store.frozen(2, why), store.fresh(4), store.fresh(8 if plain else 2)
    left = product(store, [(batch, True), (a, False)])
    right = b if plain else product(store, [(b, False), (store.frozen(4, why), True)])
    eq(store, left, right, why)
    assert store.resolve(a).units is None
    assert store.resolve(b).units is None


def test_nested_dynamic_products_are_flat() -> None:
    store = Units()
    why = store.reason(Reason("test", "", "because"))
    inner = product(store, [(store.frozen(2, why), True), (store.fresh(3), False)])
    outer = product(store, [(inner, True), (store.fresh(4), False)])
    assert [(p.n, d) for p, d in outer.parts] == [(2, True), (3, False), (4, False)]


# -- the store ----------------------------------------------------------------------------------
def test_union_of_many_pairs_at_once() -> None:
    store = Units()
    ids = store.new(10)
    store.union(ids[[0, 2, 4, 1]], ids[[2, 4, 6, 3]])
    roots = store.find(ids)
    assert len(set(roots[[0, 2, 4, 6]])) == 1
    assert len(set(roots[[1, 3]])) == 1
    assert len(set(roots)) == 6


def test_bindings_of_bindings() -> None:
    m = Machine()
    rows = m.fresh(24)
    heads, _ = m.split(rows, 6)
    outer, inner = m.split(heads, 2)
    again, rest = m.split(rows, 2)
    assert m.check() == 2**9
    np.testing.assert_array_equal(m.columns(outer), m.columns(again))
    assert m.kinds(inner) == [3]
    assert m.kinds(rest) == [3, 4]


@pytest.mark.parametrize("column", [[1, 2, 3], [5, 6, 7], [3, 3, 1], [0, 2, 2], [4, 0, 0], [9, 8, 9]])
def test_signature(column: list[int]) -> None:
    found = signature(np.array(column, np.int32))
    assert found.tolist() == [-1 if u == 0 else column.index(u) for u in column]


def test_repr() -> None:
    assert repr(Axis(3, None)) == "Axis(n=3, frozen)"
    assert repr(Units().fresh(2)) == "Axis(n=2, k=1)"
