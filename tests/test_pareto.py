"""Front and hypervolume against definitions written out."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsas import InputError
from rsas.analysis import (
    attainment,
    choose,
    course,
    epsilon,
    front,
    front_figure,
    hypervolume,
    knee,
    split_seeds,
    trials_frame,
)
from rsas.records import Objective, TrialRecord

BOTH = (Objective("val_accuracy", "max", worst=0.1), Objective("sparsity", "max", worst=0.0))
MIXED = (Objective("val_loss", "min", worst=3.0), Objective("sparsity", "max", worst=0.0))


def trial(number, state="complete", **objectives):
    return TrialRecord(
        trial_id=f"t{number:04d}",
        state=state,
        params={"sparsity": 0.5, "measure_lr": 0.1},
        objectives=objectives if state == "complete" else {},
        started=10.0,
        finished=None if state == "running" else 12.5,
    )


def trials_of(points, names=("val_accuracy", "sparsity")):
    return [trial(i, **dict(zip(names, point, strict=True))) for i, point in enumerate(points)]


grid = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=14)


@given(points=grid)
def test_front_is_what_nothing_dominates(points):
    trials = trials_of([(a / 8, s / 8) for a, s in points])
    expected = {
        f"t{i:04d}"
        for i, p in enumerate(points)
        if not any(q[0] >= p[0] and q[1] >= p[1] and q != p for q in points)
    }
    members = front(trials, BOTH)
    assert {t.trial_id for t in members} == expected
    assert [t.objectives["sparsity"] for t in members] == sorted(
        t.objectives["sparsity"] for t in members
    )


@given(points=grid)
def test_hypervolume_counts_the_dominated_cells(points):
    """On a grid of eighths the volume is the number of cells below a point."""
    objectives = (Objective("val_accuracy", "max", worst=0.0), BOTH[1])
    cells = {cell for a, s in points for cell in itertools.product(range(a), range(s))}
    trials = trials_of([(a / 8, s / 8) for a, s in points])
    assert hypervolume(trials, objectives) == pytest.approx(len(cells) / 64)


@given(points=grid, data=st.data())
def test_order_duplicates_and_dominated_trials_change_nothing(points, data):
    trials = trials_of([(a / 8, s / 8) for a, s in points])
    volume = hypervolume(trials, BOTH)
    more = data.draw(st.permutations(trials + trials[:3]))
    assert hypervolume(more, BOTH) == pytest.approx(volume)
    if trials:
        best = trials[0].objectives
        worse = trial(99, val_accuracy=best["val_accuracy"] - 0.05, sparsity=best["sparsity"])
        assert hypervolume([*trials, worse], BOTH) == pytest.approx(volume)


def test_one_point_is_a_rectangle_from_the_worst_values():
    assert hypervolume(trials_of([(0.9, 0.5)]), BOTH) == pytest.approx(0.8 * 0.5)
    assert hypervolume(trials_of([(0.1, 0.9)]), BOTH) == 0.0  # no better than worst
    assert hypervolume([], BOTH) == 0.0


def test_objectives_to_be_small():
    trials = trials_of([(1.0, 0.5), (2.0, 0.9), (2.5, 0.8)], ("val_loss", "sparsity"))
    assert [t.trial_id for t in front(trials, MIXED)] == ["t0000", "t0001"]
    assert hypervolume(trials, MIXED) == pytest.approx(2 * 0.5 + 1 * 0.4)


def test_only_complete_trials_count():
    trials = [trial(0, "running"), trial(1, "failed"), trial(2, val_accuracy=0.5, sparsity=0.5)]
    assert [t.trial_id for t in front(trials, BOTH)] == ["t0002"]
    assert front(trials[:2], BOTH) == []


def test_equal_trials_are_all_members():
    assert len(front(trials_of([(0.5, 0.5), (0.5, 0.5)]), BOTH)) == 2


def test_frame_has_a_row_a_trial():
    frame = trials_frame([trial(0, val_accuracy=0.5, sparsity=0.25), trial(1, "running")])
    assert frame["trial_id"].tolist() == ["t0000", "t0001"]
    assert frame["params.sparsity"].tolist() == [0.5, 0.5]
    assert frame["sparsity"].iloc[0] == 0.25
    assert frame["duration"].iloc[0] == 2.5
    assert frame.loc[1, ["val_accuracy", "duration"]].isna().all()


def test_a_clock_that_was_set_back_gives_no_negative_durations_or_gains():
    trials = trials_of([(0.9, 0.5), (0.5, 0.9), (0.7, 0.8)])
    trials = [
        dataclasses.replace(each, started=3600.0 * index, finished=3600.0 * index - 3000.0)
        for index, each in enumerate(reversed(trials))
    ]
    assert trials_frame(trials)["duration"].isna().all()
    assert (course(trials, BOTH)["gain"] > 0).all()


def test_figure_shows_every_complete_trial():
    trials = [*trials_of([(0.9, 0.5), (0.8, 0.9), (0.7, 0.4)]), trial(7, "failed")]
    others, members, middle = front_figure(trials, BOTH, "a front").data
    assert (list(middle.x), middle.name) == ([0.5], "knee")
    assert list(members.x) == [0.5, 0.9]
    assert list(members.y) == [0.9, 0.8]
    assert list(others.x) == [0.4]
    assert "<b>t0001</b>" in members.text[1]
    assert "sparsity = 0.9<br>sparsity asked = 0.5" in members.text[1]


@pytest.mark.parametrize("arguments", [(5, "max", 0.0), ("sparsity", "up", 0.0)])
def test_objectives_that_cannot_be(arguments):
    with pytest.raises(ValueError, match="objective"):
        Objective(*arguments)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_by_name(bad):
    trials = trials_of([(0.5, 0.5), (bad, 0.5)])
    with pytest.raises(InputError, match=r"t0001: val_accuracy=(nan|inf): expected a finite"):
        hypervolume(trials, BOTH)
    with pytest.raises(InputError, match="t0001"):
        front(trials, BOTH)


def ended(number, at, spent, state="complete", **objectives):
    made = trial(number, state, **objectives)
    return dataclasses.replace(made, finished=at, device_seconds=spent)


def test_course_counts_the_cost_of_all_trials_that_ended():
    trials = [
        ended(0, 30.0, 4.0, val_accuracy=0.6, sparsity=1.0),  # last: 0.5 x 1.0
        ended(1, 10.0, 1.0, val_accuracy=0.6, sparsity=0.5),  # first: 0.5 x 0.5
        ended(2, 20.0, 2.0, val_accuracy=0.5, sparsity=0.4),  # dominated
        ended(3, 15.0, 3.0, "pruned"),
        dataclasses.replace(trial(4, "running"), device_seconds=100.0),
    ]
    found = course(trials, BOTH)
    assert found["trial_id"].tolist() == ["t0001", "t0002", "t0000"]
    assert found["trials"].tolist() == [1, 2, 3]
    assert found["device_seconds"].tolist() == [1.0, 6.0, 10.0]
    assert found["hypervolume"].tolist() == pytest.approx([0.25, 0.25, 0.5])
    assert found["gain"].tolist() == pytest.approx([0.25, 0.0, 0.25])
    costs = found["cost_per_gain"].tolist()
    assert [costs[0], costs[2]] == pytest.approx([1 / 0.25, (10 - 1) / 0.25])
    assert math.isnan(costs[1])
    assert list(course([], BOTH)) == list(found)


@given(ours=grid.filter(bool), theirs=grid.filter(bool))
def test_epsilon_is_the_least_shift_that_covers(ours, theirs):
    """max over theirs of min over ours of max over objectives of what is lacking."""
    expected = max(min(max(t[0] - o[0], t[1] - o[1]) for o in ours) for t in theirs) / 8
    a, b = (trials_of([(x / 8, y / 8) for x, y in each]) for each in (ours, theirs))
    assert epsilon(a, b, BOTH) == pytest.approx(expected)


def test_epsilon_follows_the_direction_of_objectives():
    names = ("val_loss", "sparsity")
    a, b = trials_of([(1.0, 0.5)], names), trials_of([(0.7, 0.5)], names)
    assert epsilon(a, b, MIXED) == pytest.approx(0.3)
    assert epsilon(b, a, MIXED) == pytest.approx(0.0)
    with pytest.raises(InputError, match="complete trial"):
        epsilon(a, [], MIXED)


@given(sets=st.lists(grid.filter(bool), min_size=1, max_size=5), share=st.integers(1, 5))
def test_attainment_against_counting(sets, share):
    """A cell is attained by as many sets as have a point at least as good."""
    percent = 100 * min(share, len(sets)) / len(sets)
    surface = attainment(
        [trials_of([(a / 8, s / 8) for a, s in points]) for points in sets], BOTH, [percent]
    )
    corners = surface[["val_accuracy", "sparsity"]].to_numpy() * 8
    for cell in itertools.product(range(9), range(9)):
        count = sum(any(a >= cell[0] and s >= cell[1] for a, s in points) for points in sets)
        below = any(a >= cell[0] - 1e-9 and s >= cell[1] - 1e-9 for a, s in corners)
        assert below == (count >= min(share, len(sets)))


def test_attainment_of_objectives_to_be_small():
    names = ("val_loss", "sparsity")
    sets = [trials_of([(1.0, 0.5)], names), trials_of([(2.0, 0.8)], names)]
    both = attainment(sets, MIXED, [100])
    assert both.to_dict("records") == [{"percentile": 100.0, "val_loss": 2.0, "sparsity": 0.5}]
    with pytest.raises(InputError, match="complete trial"):
        attainment([[]], MIXED)
    with pytest.raises(InputError, match="two objectives or more"):
        attainment(sets, MIXED[:1])


def test_seeds_are_split_in_their_order():
    def seeded(number, accuracies):
        by_seed = {f"seed{s}/val_accuracy": a for s, a in accuracies.items()}
        by_seed |= {f"seed{s}/sparsity": 0.5 for s in accuracies}
        mean = sum(accuracies.values()) / len(accuracies)
        made = trial(number, val_accuracy=mean, sparsity=0.5)
        return dataclasses.replace(made, by_seed=by_seed)

    trials = [seeded(0, {2: 0.2, 10: 0.4}), trial(1, "pruned"), seeded(2, {2: 0.6, 10: 0.8})]
    sets = split_seeds(trials, BOTH)
    assert [[t.objectives["val_accuracy"] for t in each] for each in sets] == [
        [0.2, 0.6],
        [0.4, 0.8],
    ]
    assert split_seeds(trials_of([(0.5, 0.5)]), BOTH) == [trials_of([(0.5, 0.5)])]
    assert split_seeds([], BOTH) == [[]]


def test_knee_is_farthest_above_the_chord():
    """Of points on a quarter circle, by vectors; scales and offsets do not matter."""
    angles = np.radians([0, 20, 50, 80, 90])
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    chord = (points[-1] - points[0]) / np.linalg.norm(points[-1] - points[0])
    offsets = points - points[0]
    distances = np.linalg.norm(offsets - np.outer(offsets @ chord, chord), axis=1)
    trials = trials_of([(0.3 + 0.6 * x, 100 * y - 50) for x, y in points.tolist()])
    assert knee(trials, BOTH).trial_id == f"t{distances.argmax():04d}" == "t0002"


def test_knee_of_a_loss_to_be_small():
    trials = trials_of([(1.0, 0.1), (1.1, 0.8), (2.0, 0.9)], ("val_loss", "sparsity"))
    assert knee(trials, MIXED).trial_id == "t0001"


def test_knee_of_small_flat_and_hollow_fronts_is_their_first():
    assert knee([], BOTH) is None
    assert knee(trials_of([(0.5, 0.5)]), BOTH).trial_id == "t0000"
    assert knee(trials_of([(0.5, 0.9), (0.6, 0.2)]), BOTH).trial_id == "t0001"
    assert knee(trials_of([(0.5, 0.5), (0.5, 0.5)]), BOTH).trial_id == "t0000"
    # On the chord, but for the rounding of the middle one.
    assert knee(trials_of([(0.9, 0.7), (0.8, 0.8), (0.7, 0.9)]), BOTH).trial_id == "t0000"
    hollow = [(1.0, 0.0), (0.25, 0.25), (0.0, 1.0)]
    assert knee(trials_of(hollow), BOTH).trial_id == "t0000"


def test_a_trial_is_chosen_by_what_it_is_or_by_name():
    trials = trials_of([(0.9, 0.1), (0.8, 0.8), (0.3, 0.9), (0.1, 0.1)])
    chosen = {
        which: choose(trials, BOTH, which).trial_id
        for which in ("most-accurate", "knee", "sparsest", "t0003")
    }
    assert chosen == {
        "most-accurate": "t0000",
        "knee": "t0001",
        "sparsest": "t0002",
        "t0003": "t0003",
    }


def test_without_an_accuracy_the_first_objective_decides():
    trials = trials_of([(1.0, 0.5), (2.0, 0.9)], ("val_loss", "sparsity"))
    assert choose(trials, MIXED, "most-accurate").trial_id == "t0000"
    objectives = (MIXED[0], BOTH[0])
    trials = trials_of([(1.0, 0.5), (2.0, 0.9)], ("val_loss", "val_accuracy"))
    assert choose(trials, objectives, "most-accurate").trial_id == "t0001"


@pytest.mark.parametrize(
    ("points", "which", "message"),
    [
        ([], "knee", "'knee': no trial of the sweep is complete yet"),
        ([(0.5, 0.5)] * 3, "t0007", "one of the sweep's trials .t0000 to t0002."),
        ([], "best", "expected knee, most-accurate, sparsest, or one of .*none yet"),
    ],
)
def test_a_trial_that_is_not_there(points, which, message):
    with pytest.raises(InputError, match=message):
        choose(trials_of(points), BOTH, which)


def test_sparsest_needs_sparsity_as_an_objective():
    objectives = (MIXED[0], BOTH[0])
    trials = trials_of([(1.0, 0.5)], ("val_loss", "val_accuracy"))
    with pytest.raises(InputError, match="sparsity is not an objective here, only val_loss, val_a"):
        choose(trials, objectives, "sparsest")
