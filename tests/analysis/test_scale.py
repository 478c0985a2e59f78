"""Sweeps of thousands of trials: the same numbers as by the definitions, in bearable time."""

import base64
import dataclasses
import json
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsas import InputError
from rsas.analysis import (
    Sweep,
    compare,
    course,
    front,
    front_figure,
    hypervolume,
    importance,
    running_fronts,
    split_seeds,
)
from rsas.analysis.compare import attained
from rsas.analysis.importance import sampled
from rsas.analysis.report import report
from rsas.pareto import with_objectives
from rsas.records import Objective, TrialRecord
from rsas.sweep.audit.check import check_storage
from tests.benchmarks.scale import write

ACCURACY = Objective("val_accuracy", "max", worst=0.1)
LOSS = Objective("val_loss", "min", worst=3.0)
SPARSITY = Objective("sparsity", "max", worst=0.0)
SECONDS = Objective("seconds", "min", worst=4.0)
OBJECTIVES = ((ACCURACY, SPARSITY), (LOSS, SPARSITY), (LOSS, SECONDS), (SPARSITY, LOSS, SECONDS))
BOTH = OBJECTIVES[0]

# Eighths give ties and equal trials, other numbers what rounding may do to a sum.
numbers = st.one_of(st.integers(0, 32).map(lambda n: n / 8), st.floats(-1.0, 5.0))
values = st.lists(st.tuples(numbers, numbers, numbers), max_size=24)


def trials_of(points, objectives, states=()):
    names = [objective.name for objective in objectives]
    states = [*states, *["complete"] * len(points)]
    return [
        TrialRecord(
            trial_id=f"t{i:04d}",
            state=states[i],
            params={},
            objectives=dict(zip(names, point, strict=False)) if states[i] == "complete" else {},
            started=0.0,
            finished=1.0 + i,
            device_seconds=1.0,
        )
        for i, point in enumerate(points)
    ]


@given(points=values, objectives=st.sampled_from(OBJECTIVES), data=st.data())
def test_running_fronts_are_those_of_each_prefix(points, objectives, data):
    """Exactly: the page, MLflow and ``rsas check`` show the same digits."""
    states = data.draw(st.lists(st.sampled_from(["complete", "pruned"]), max_size=len(points)))
    trials = trials_of(points, objectives, states)
    expected = [
        (trial.trial_id, len(front(trials[:i], objectives)), hypervolume(trials[:i], objectives))
        for i, trial in enumerate(trials, 1)
        if trial.state == "complete"
    ]
    found = [(t.trial_id, size, volume) for t, size, volume in running_fronts(trials, objectives)]
    assert found == expected
    steps = course(trials[::-1], objectives)  # in the order in which they were finished
    assert steps["hypervolume"].tolist() == [volume for _, _, volume in expected]
    ended = [i for i, trial in enumerate(trials, 1) if trial.state == "complete"]
    assert steps["device_seconds"].tolist() == ended


def test_running_fronts_need_finite_objectives():
    trials = trials_of([(0.5, 0.5), (0.6, float("nan"))], BOTH)
    with pytest.raises(InputError, match="t0001: sparsity=nan: expected a finite number"):
        list(running_fronts(trials, BOTH))


def test_course_of_five_thousand_trials():
    angles = np.random.default_rng(0).random(5000) * np.pi / 2
    radii = 1 - 0.1 * np.random.default_rng(1).random(5000) ** 2
    points = np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)
    trials = trials_of(points.tolist(), BOTH)
    before = time.process_time()
    found = course(trials, BOTH)
    assert time.process_time() - before < 5
    assert found["hypervolume"].iloc[-1] == hypervolume(trials, BOTH)


def seeded(name, count, seed):
    """A sweep with two seeds a trial, some of whose values are equal."""
    rng = np.random.default_rng(seed)
    trials = []
    for trial, each in zip(
        trials_of(np.zeros((count, 2)).tolist(), BOTH),
        rng.integers(1, 9, size=(count, 2, 2)) / 8,  # (trials, seeds, objectives)
        strict=True,
    ):
        names = [objective.name for objective in BOTH]
        by_seed = {f"seed{s}/{n}": float(each[s, i]) for s in (0, 1) for i, n in enumerate(names)}
        means = dict(zip(names, each.mean(axis=0).tolist(), strict=True))
        trials.append(dataclasses.replace(trial, objectives=means, by_seed=by_seed))
    return Sweep(name, "finished", {}, BOTH, trials, history=lambda trial: [])


def test_intervals_are_those_of_fronts_taken_again_for_each_draw():
    sweeps = [seeded("a", 9, seed=1), seeded("b", 7, seed=2)]
    found = compare(*sweeps, at=[0.5], seed=3)
    for number, sweep in enumerate(sweeps):
        rng = np.random.default_rng([3, number])
        sets = split_seeds(sweep.trials, BOTH)
        names = [objective.name for objective in BOTH]
        own = np.array([[[t.objectives[n] for n in names] for t in each] for each in sets])
        draws = []
        for _ in range(500):
            drawn = rng.integers(2, size=own.shape[:2])
            means = [own[drawn[:, t], t].mean(axis=0) for t in range(len(sweep.trials))]
            again = with_objectives(sweep.trials, BOTH, means)
            best = attained(again, BOTH, 0.5)
            draws.append((hypervolume(again, BOTH), best.objectives["val_accuracy"]))
        low, high = np.quantile(draws, [0.025, 0.975], axis=0)
        volume = hypervolume(sweep.trials, BOTH)
        row = found.sweeps.iloc[number]
        assert row[["low", "high"]].tolist() == pytest.approx(
            [2 * volume - high[0], 2 * volume - low[0]]
        )
        value = attained(sweep.trials, BOTH, 0.5).objectives["val_accuracy"]
        row = found.values.iloc[number]
        assert row["value"] == value
        assert row[["low", "high"]].tolist() == pytest.approx(
            [2 * value - high[1], 2 * value - low[1]]
        )


def test_a_sample_is_drawn_only_of_more_trials_than_it_has():
    trials = trials_of(np.random.default_rng(0).random((400, 2)).tolist(), BOTH, ["pruned"] * 20)
    assert sampled(trials, 380) == trials[20:]
    drawn = sampled(trials, 379)
    assert drawn == sampled(trials, 379) and len({trial.trial_id for trial in drawn}) == 379
    assert [t for t in trials if t in drawn] == drawn  # in their order, complete ones alone
    places = [trials.index(trial) for trial in sampled(trials, 100)]
    assert np.mean(places) == pytest.approx(209.5, abs=3 * 109.7 / 10)  # all over the sweep


def sweep_of(trials):
    base = {"model": "mlp", "dataset": "digits", "epochs": 1}
    experiment = {"base": base, "space": "one", "axes": {}}
    return Sweep("made", "finished", experiment, BOTH, trials, history=lambda trial: [])


@pytest.mark.slow
@pytest.mark.parametrize(("count", "says"), [(200, False), (201, True)])
def test_the_page_says_what_is_drawn_from_a_sample(count, says):
    points = np.random.default_rng(0).random((count, 2)).tolist()
    trials = [
        dataclasses.replace(trial, params={"x": trial.objectives["val_accuracy"]})
        for trial in trials_of(points, BOTH)
    ]
    sweep = sweep_of(trials)
    page = report([sweep])
    told = f"Importance from 200 of {count} complete trials, drawn at random."
    assert (told in page) == says
    shares = importance(sampled(sweep.trials, 200), BOTH)["val_accuracy"]
    figures = json.loads(page.split('id="figures">')[1].split("</script>")[0])
    bars = [trace for f in figures.values() for trace in f["data"] if trace["type"] == "bar"]
    shown = np.frombuffer(base64.b64decode(bars[0]["x"]["bdata"]))
    assert shown.tolist() == shares[::-1].tolist()


@pytest.mark.parametrize(("members", "folds"), [(40, False), (41, True)])
def test_a_long_front_is_folded_away(members, folds):
    points = [(at / 50, 1 - at / 50) for at in range(members)]
    page = report([sweep_of(trials_of(points, BOTH))])
    assert (f"<summary>All {members} members</summary>" in page) == folds
    assert page.count(f"<td>t{members - 1:04d}</td>") == 3  # front, course, all trials


@pytest.mark.parametrize(("count", "opacity"), [(1000, 1.0), (1001, 0.5)])
@pytest.mark.parametrize("methods", [("reinforced",), ("reinforced", "rigl")])
def test_points_of_many_trials_are_translucent(count, opacity, methods):
    points = np.random.default_rng(0).random((count, 2)).tolist()
    trials = [
        dataclasses.replace(trial, params={"method": methods[i % len(methods)]})
        for i, trial in enumerate(trials_of(points, BOTH))
    ]
    points = [trace for trace in front_figure(trials, BOTH).data if trace.marker.opacity]
    assert [trace.marker.opacity for trace in points] == [opacity] * len(methods)
    assert all((trace.marker.size == 4) == (opacity < 1) for trace in points)


def test_the_benchmark_writes_what_a_driver_leaves(tmp_path):
    folder = write(tmp_path, "a", 40, seeds=2)
    status = folder.status()
    assert sum(status.counts.values()) - status.asked == 40
    assert status.state == "finished"
    found = {fault.what for fault in check_storage(folder, status)}
    assert found == {"the final model of a front member is missing"}
