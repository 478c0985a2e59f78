"""Successive halving against its published rule, dominance written out and cases done by hand."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsas.errors import InputError
from rsas.records import Objective
from rsas.sweep.suggest.halving import Halving, epsilon_net, fronts, rungs

ACCURACY = Objective("val_accuracy", "max", worst=0.1)
SPARSITY = Objective("sparsity", "max", worst=0.0)
LOSS = Objective("val_loss", "min", worst=3.0)
BOTH = (ACCURACY, SPARSITY)


def dominates(p, q):
    return all(a >= b for a, b in zip(p, q, strict=True)) and any(
        a > b for a, b in zip(p, q, strict=True)
    )


def peeled(points):
    """The front of each point: take away those that nothing dominates, again and again."""
    left, rank = set(range(len(points))), {}
    while left:
        best = {i for i in left if not any(dominates(points[j], points[i]) for j in left)}
        rank |= dict.fromkeys(best, len(set(rank.values())))
        left -= best
    return [rank[i] for i in range(len(points))]


def halving(objectives=BOTH, *, epochs=28, first=1, reduction=3, seen=()):
    made = Halving(objectives, epochs=epochs, first=first, reduction=reduction)
    for number, point in enumerate(seen):
        made.record(first, number, point)
    return made


def rows(width, most=6, max_size=24):
    """On a small grid, so that there are equal values and equal trials."""
    row = st.tuples(*[st.integers(0, most)] * width)
    return st.lists(row, min_size=1, max_size=max_size)


some_rows = st.integers(1, 4).flatmap(rows)


# Rungs


@given(epochs=st.integers(1, 400), first=st.integers(1, 30), reduction=st.integers(2, 5))
def test_rungs_are_the_powers_in_the_first_half_and_the_first_one(epochs, first, reduction):
    powers = [first * reduction**i for i in range(10)]
    expected = [p for p in powers if p <= epochs / 2 or first == p < epochs]
    assert rungs(epochs, first, reduction) == tuple(expected)
    assert Halving(BOTH, epochs=epochs, first=first, reduction=reduction).rungs == tuple(expected)


def test_the_whole_training_is_no_rung():
    assert rungs(27, 1, 3) == (1, 3, 9)
    assert rungs(28, 1, 3) == (1, 3, 9)
    assert rungs(54, 1, 3) == (1, 3, 9, 27)
    assert rungs(10, 3, 3) == (3,)
    assert rungs(4, 3, 3) == (3,)
    assert rungs(3, 3, 2) == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"first": 0}, "first=0"),
        ({"reduction": 1}, "reduction=1"),
        ({"objectives": ()}, "at least one"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(change, message):
    arguments = {"objectives": BOTH, "epochs": 27, "first": 1, "reduction": 3} | change
    with pytest.raises(InputError, match=message):
        Halving(arguments.pop("objectives"), **arguments)


# Fronts


@given(points=some_rows)
def test_fronts_are_what_peeling_gives(points):
    assert fronts(np.array(points, dtype=float)).tolist() == peeled(points)


@given(points=rows(2), data=st.data())
def test_fronts_do_not_depend_on_the_order(points, data):
    order = data.draw(st.permutations(range(len(points))))
    values = np.array(points, dtype=float)
    assert fronts(values[order]).tolist() == fronts(values)[order].tolist()


# Epsilon-net


@given(points=some_rows)
def test_each_next_row_is_the_farthest_from_those_before(points):
    order = epsilon_net(np.array(points, dtype=float))
    assert sorted(order) == list(range(len(points)))
    assert points[order[0]] == max(points)
    spans = [max(column) - min(column) or 1 for column in zip(*points, strict=True)]
    scaled = [[v / s for v, s in zip(point, spans, strict=True)] for point in points]
    for i in range(1, len(order)):
        nearest = [min(math.dist(scaled[k], scaled[j]) for j in order[:i]) for k in order[i:]]
        assert nearest[0] == pytest.approx(max(nearest), abs=1e-12)


@given(points=rows(2), data=st.data())
def test_the_net_depends_on_the_values_alone(points, data):
    """Not on the order of the rows, and not on the units; halves and doubles are exact."""
    values = np.array(points, dtype=float)
    order = data.draw(st.permutations(range(len(points))))
    expected = values[epsilon_net(values)].tolist()
    assert values[order][epsilon_net(values[order])].tolist() == expected
    assert values[epsilon_net(values * [1024.0, 0.5])].tolist() == expected


def test_a_net_by_hand():
    """On a line: an end, the other end, the middle, and of two the one best in the first."""
    values = np.array([[0.0, 4.0], [1.0, 3.0], [2.0, 2.0], [3.0, 1.0], [4.0, 0.0]])
    assert epsilon_net(values) == [4, 0, 2, 3, 1]


def test_copies_come_last():
    values = np.array([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    assert values[epsilon_net(values)].tolist() == [[2, 0], [0, 2], [1, 1], [2, 0]]


# One objective: the published rule


@given(values=st.lists(st.integers(0, 9), min_size=1, max_size=30), reduction=st.integers(2, 5))
def test_one_objective_is_asha(values, reduction):
    """A trial goes on when fewer than n // reduction of the n are better, or it is among the
    first, or it is the best."""
    made = halving((ACCURACY,), reduction=reduction)
    for number, value in enumerate(values):
        seen = values[: number + 1]
        better = sum(other > value for other in seen)
        expected = len(seen) < reduction or better < max(1, len(seen) // reduction)
        assert made.keeps(1, number, [value]) == expected


def test_asha_by_hand():
    made = halving((ACCURACY,), reduction=3)
    arrivals = {
        0.5: True,  # the first
        0.4: True,  # the second
        0.3: False,  # the worst of 3, of which one goes on
        0.6: True,  # the best
        0.55: False,  # the second of 5
        0.58: True,  # the second of 6
        0.57: False,  # the third of 7
    }
    decisions = [made.keeps(1, number, [value]) for number, value in enumerate(arrivals)]
    assert decisions == list(arrivals.values())


# Several objectives


@given(points=some_rows, reduction=st.integers(2, 5))
def test_what_nothing_dominates_is_never_stopped(points, reduction):
    objectives = (ACCURACY, SPARSITY, Objective("epoch", "max", 0), Objective("seconds", "max", 0))
    made = halving(objectives[: len(points[0])], reduction=reduction)
    for number, point in enumerate(points):
        kept = made.keeps(1, number, point)
        assert kept or any(dominates(other, point) for other in points[:number])


@given(points=rows(2), reduction=st.integers(2, 5))
def test_of_the_others_the_best_fronts_go_on(points, reduction):
    """A trial goes on if its whole front has room in the top, not if those before fill it."""
    made = halving(reduction=reduction)
    for number, point in enumerate(points):
        kept = made.keeps(1, number, point)
        rank = peeled(points[: number + 1])
        before = sum(r < rank[-1] for r in rank)
        room = len(rank) // reduction - before
        if len(rank) < reduction or rank[-1] == 0 or room >= rank.count(rank[-1]):
            assert kept
        elif room <= 0:
            assert not kept


def test_inside_a_front_the_net_decides():
    """One dominates all; of the second front, five on a line, four of 18 // 3 have room."""
    line = [(0.0, 4.0), (1.0, 3.0), (2.0, 2.0), (3.0, 1.0), (4.0, 0.0)]
    rest = [(-1.0, -1.0)] * 11
    kept = {}
    for i, point in enumerate(line):
        others = line[:i] + line[i + 1 :]
        made = halving(seen=[(5.0, 5.0), (5.0, 5.0), *others, *rest, (-2.0, -2.0)][:17])
        kept[point] = made.keeps(1, 99, point)
    # Places 2 to 5 of 6 are those of test_a_net_by_hand, and (1, 3) comes last.
    assert kept == {point: point != (1.0, 3.0) for point in line}


def test_equal_trials_share_their_place():
    """Which of the copies came last is no merit and no fault."""
    pair = [(4.0, 0.0), (0.0, 4.0)]
    seen = [(5.0, 5.0), pair[0], pair[0], pair[1], *[(-1.0, -1.0)] * 4]
    assert halving(seen=seen).keeps(1, 99, pair[0])  # place 1 of 9 // 3
    assert halving(seen=seen).keeps(1, 99, pair[1])  # place 2
    assert not halving(seen=seen[:7]).keeps(1, 99, pair[1])  # of 8 // 3


@given(points=rows(2, max_size=12), own=rows(2, max_size=1), data=st.data())
def test_decisions_do_not_depend_on_the_order_of_what_is_known(points, own, data):
    order = data.draw(st.permutations(points))
    decisions = [halving(seen=seen).keeps(1, 99, own[0]) for seen in (points, order)]
    assert decisions[0] == decisions[1]


@given(points=rows(2), reduction=st.integers(2, 4))
def test_a_resumed_sweep_decides_as_an_undisturbed_one(points, reduction):
    """Stopped or not, what was at a rung counts there; and telling it again changes nothing."""
    made = halving(reduction=reduction)
    for number, point in enumerate(points):
        resumed = halving(reduction=reduction, seen=points[:number])
        resumed.record(1, 0, points[0])
        if number:
            resumed.record(1, number - 1, points[number - 1])
        assert resumed.keeps(1, number, point) == made.keeps(1, number, point)


def test_what_came_last_counts():
    """A trial gone on with from an older checkpoint comes to its rung again."""
    made = halving((ACCURACY,), reduction=2, seen=[(0.9,), (0.1,), (0.1,)])
    made.record(1, 0, (0.2,))
    assert made.keeps(1, 3, (0.5,))
    assert not halving((ACCURACY,), reduction=4, seen=[(0.9,), (0.1,), (0.1,)]).keeps(1, 3, (0.5,))


@given(points=rows(2), flip=st.sampled_from([(1, -1), (-1, 1), (-1, -1)]))
def test_a_direction_is_a_sign(points, flip):
    """Smaller is better where the objective says so."""
    mirrored = tuple(
        Objective(o.name, "max" if sign == 1 else "min", o.worst)
        for o, sign in zip(BOTH, flip, strict=True)
    )
    plain, other = halving(), halving(mirrored)
    for number, point in enumerate(points):
        turned = [v * sign for v, sign in zip(point, flip, strict=True)]
        assert other.keeps(1, number, turned) == plain.keeps(1, number, point)


def test_a_smaller_loss_goes_on():
    seen = [(0.3,), (0.4,), (0.5,)]
    assert halving((LOSS,), seen=seen).keeps(1, 9, (0.2,))
    assert not halving((LOSS,), seen=seen).keeps(1, 9, (0.6,))


def test_rungs_are_apart():
    made = halving((ACCURACY,), seen=[(0.9,)] * 9)
    assert made.keeps(3, 9, (0.1,))
    assert not made.keeps(1, 9, (0.1,))
    assert made.names == ["val_accuracy"]


# Values that are not finite


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_cannot_be_compared_is_stopped_and_does_not_count(bad):
    """Alone, first and with a good second objective, too."""
    made = halving()
    assert not made.keeps(1, 0, (bad, 0.9))
    assert not made.keeps(1, 1, (0.9, bad))
    made.record(1, 2, (bad, bad))
    assert made.keeps(1, 3, (0.5, 0.5))
    assert made.keeps(1, 4, (0.4, 0.4))  # among the first two
    assert not made.keeps(1, 5, (0.3, 0.3))  # the third


def test_a_value_that_is_no_longer_finite_is_forgotten():
    made = halving(seen=[(0.9, 0.9), (0.8, 0.8)])
    assert not made.keeps(1, 0, (math.nan, 0.9))
    assert made.keeps(1, 2, (0.7, 0.7))


def test_all_of_a_small_grid():
    """Every set of four arrivals of two binary objectives, with reduction 2, by brute force."""
    for points in itertools.product(itertools.product((0, 1), repeat=2), repeat=4):
        made = halving(reduction=2)
        for number, point in enumerate(points):
            seen = points[: number + 1]
            rank = peeled(seen)
            # Each front but the last holds the two corners at most, of which (1, 0) is first.
            place = sum(r < rank[-1] for r in rank) + (point == (0, 1) and (1, 0) in seen)
            expected = rank[-1] == 0 or len(seen) < 2 or place < len(seen) // 2
            assert made.keeps(1, number, point) == expected
