"""Sweeps side by side: closed forms on small fronts, and intervals that cover the truth."""

import math

import numpy as np
import pytest

from rsas import InputError
from rsas.analysis import Sweep, compare
from rsas.records import Objective, TrialRecord

OBJECTIVES = (Objective("val_accuracy", "max", worst=0.0), Objective("sparsity", "max", worst=0.0))


def sweep(name, points, objectives=OBJECTIVES, seeds=()):
    """``points`` are values of the objectives; ``seeds`` those of each seed, of each point."""
    names = [objective.name for objective in objectives]
    trials = [
        TrialRecord(
            trial_id=f"t{i:04d}",
            state="complete",
            params={},
            objectives=dict(zip(names, point, strict=True)),
            started=0.0,
            finished=1.0 + i,
            by_seed={
                f"seed{s}/{n}": v
                for s, values in enumerate(seeds[i] if seeds else [])
                for n, v in zip(names, values, strict=True)
            },
        )
        for i, point in enumerate(points)
    ]
    return Sweep(name, "finished", {}, tuple(objectives), trials, history=lambda trial: [])


A = [(0.9, 0.5), (0.5, 0.9), (0.4, 0.4)]
B = [(0.8, 0.7), (0.95, 0.2)]


def test_closed_form():
    found = compare(sweep("a", A), sweep("b", B), at=[0.2, 0.6, 0.8, 0.95])
    volumes = [0.9 * 0.5 + 0.5 * 0.4, 0.8 * 0.7 + 0.15 * 0.2]
    assert found.sweeps["hypervolume"].tolist() == pytest.approx(volumes)
    assert found.sweeps["front"].tolist() == [2, 2]
    assert found.sweeps["complete"].tolist() == [3, 2]
    row = found.differences.iloc[0]
    assert (row["sweep"], row["against"]) == ("b", "a")
    assert row["hypervolume"] == pytest.approx(volumes[1] - volumes[0])
    assert row["epsilon"] == pytest.approx(0.2)  # of sparsity, to cover (0.5, 0.9)
    values = found.values.pivot(index="at", columns="sweep", values="value")
    assert values["a"].tolist()[:3] == pytest.approx([0.9, 0.5, 0.5])
    assert values["b"].tolist()[:2] == pytest.approx([0.95, 0.8])
    assert all(math.isnan(value) for value in [*values["a"][3:], *values["b"][2:]])
    trials = found.values.pivot(index="at", columns="sweep", values="trial_id")
    assert trials["a"].tolist() == ["t0000", "t0001", "t0001", ""]
    ranges = found.ranges.round(9).to_dict("records")
    assert ranges[0] == {"low": 0.2, "high": 0.5, "best": "a", "lead": 0.1}
    assert ranges[1] == {"low": 0.5, "high": 0.7, "best": "b", "lead": 0.3}
    assert ranges[2]["best"] == "a" and math.isnan(ranges[2]["lead"])  # b has nothing there


def test_equal_sweeps_are_equal():
    found = compare(sweep("a", A), sweep("b", A))
    assert found.differences["hypervolume"].tolist() == [0.0]
    assert found.differences["epsilon"].tolist() == [0.0]
    assert found.ranges["best"].tolist() == ["equal"]


def test_an_objective_to_be_small():
    objectives = (Objective("val_loss", "min", worst=3.0), OBJECTIVES[1])
    found = compare(
        sweep("a", [(1.0, 0.5), (2.0, 0.9)], objectives),
        sweep("b", [(0.5, 0.5), (2.5, 0.9)], objectives),
        at=[0.5, 0.9],
    )
    assert found.values["value"].tolist() == [1.0, 0.5, 2.0, 2.5]
    assert found.ranges["best"].tolist() == ["a"]  # between 0.5 and 0.9 the sparse ones count


def test_one_seed_gives_no_interval():
    found = compare(sweep("a", A), sweep("b", B))
    assert found.sweeps["seeds"].tolist() == [1, 1]
    for table in (found.sweeps, found.differences, found.values):
        assert table[["low", "high"]].isna().all(axis=None)


@pytest.mark.slow
def test_intervals_cover_the_truth_about_as_often_as_they_say():
    """One point a sweep, so the hypervolume is a mean; 95% is asked, and 10 seeds give a little
    less, as the bootstrap's spread has n and not n - 1 in it.
    """
    rng, hits, truth = np.random.default_rng(0), 0, (0.7 - 0.6) * 0.5
    for _ in range(100):
        pair = []
        for name, mean in (("a", 0.6), ("b", 0.7)):
            accuracies = rng.normal(mean, 0.05, size=10)
            seeds = [[(value, 0.5) for value in accuracies]]
            pair.append(sweep(name, [(accuracies.mean(), 0.5)], seeds=seeds))
        row = compare(*pair, at=[0.5]).differences.iloc[0]
        hits += row["low"] <= truth <= row["high"]
    assert 85 <= hits <= 99


def test_seeds_that_agree_give_no_spread():
    seeds = [[point, point, point] for point in A]
    found = compare(sweep("a", A, seeds=seeds), sweep("b", A, seeds=seeds), at=[0.5])
    assert found.sweeps["seeds"].tolist() == [3, 3]
    for column in ("low", "high"):
        assert found.differences[column].tolist() == pytest.approx([0.0])
        assert found.values[column].tolist() == pytest.approx([0.9, 0.9])


def test_what_cannot_be_compared():
    other = (Objective("val_accuracy", "max", worst=0.1), OBJECTIVES[1])
    with pytest.raises(InputError, match="two sweeps"):
        compare(sweep("a", A))
    with pytest.raises(InputError, match="objectives of 'b' differ"):
        compare(sweep("a", A), sweep("b", B, other))
    with pytest.raises(InputError, match="'b' has no complete trial"):
        compare(sweep("a", A), sweep("b", []))
