"""Front and hypervolume against definitions written out."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsas.analysis import front, front_figure, hypervolume, trials_frame
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


def test_figure_shows_every_complete_trial():
    trials = [*trials_of([(0.9, 0.5), (0.8, 0.9), (0.7, 0.4)]), trial(7, "failed")]
    others, members = front_figure(trials, BOTH, "a front").data
    assert list(members.x) == [0.5, 0.9]
    assert list(members.y) == [0.9, 0.8]
    assert list(others.x) == [0.4]
    assert "<b>t0001</b>" in members.text[1]
    assert "sparsity = 0.9<br>sparsity asked = 0.5" in members.text[1]


@pytest.mark.parametrize("arguments", [("accuracy", "max", 0.0), ("sparsity", "up", 0.0)])
def test_objectives_that_cannot_be(arguments):
    with pytest.raises(ValueError, match="objective"):
        Objective(*arguments)
