"""Which parameter mattered, on objectives whose variance is known."""

import numpy as np
import pytest

from rsas.analysis import importance, without_effect
from rsas.records import Objective, TrialRecord

OBJECTIVES = (Objective("val_accuracy", "max", worst=0.0), Objective("sparsity", "max", worst=0.0))


def trials_of(function, count=64, seed=0):
    """``function`` of (x, y, a generator) gives the parameters and both objectives."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        params, values = function(*rng.random(2), rng)
        objectives = dict(zip(("val_accuracy", "sparsity"), values, strict=True))
        made.append(
            TrialRecord(f"t{number:04d}", "complete", params, objectives, 0.0, float(number))
        )
    return made


def additive(x, y, rng):
    """Var(2x) : Var(y) is 4 : 1 in the first objective; the second is y alone."""
    return {"x": x, "y": y, "idle": rng.random()}, (2 * x + y, y)


@pytest.mark.slow
def test_shares_of_an_additive_objective():
    found = importance(trials_of(additive, count=256), OBJECTIVES)
    assert found["val_accuracy"].sum() == pytest.approx(1.0)
    assert found.loc["x", "val_accuracy"] == pytest.approx(0.8, abs=0.06)
    assert found.loc["y", "val_accuracy"] == pytest.approx(0.2, abs=0.06)
    assert found.loc["y", "sparsity"] > 0.95
    assert found.loc["idle"].max() < 0.05
    assert found.index[-1] == "idle"


@pytest.mark.slow
def test_ped_anova_sees_what_the_best_have_in_common():
    found = importance(trials_of(additive, count=256), OBJECTIVES, evaluator="ped_anova")
    assert found["val_accuracy"].idxmax() == "x"
    assert found["sparsity"].idxmax() == "y"


@pytest.mark.slow
def test_logarithmic_axes_are_judged_in_logarithms():
    """Half of the axis lies below 0.03; on a linear one that would be 3% of it."""

    def steep(x, y, rng):
        return {"lr": 10 ** (3 * x - 3), "y": y}, (float(x < 0.5) + 0.5 * y, y)

    axis = {"name": "FloatDistribution", "attributes": {"low": 1e-3, "high": 1.0, "log": True}}
    trials = trials_of(steep, count=128)
    known = importance(trials, OBJECTIVES, {"lr": axis})["val_accuracy"]["lr"]
    guessed = importance(trials, OBJECTIVES)["val_accuracy"]["lr"]
    assert known == pytest.approx(0.25 / (0.25 + 0.25 / 12), abs=0.06)
    assert guessed < known - 0.1


def test_a_parameter_that_some_configurations_lack_is_judged_among_those_that_have_it():
    def conditional(x, y, rng):
        if y < 0.5:
            return {"method": "static"}, (0.5, y)
        return {"method": "rigl", "drop": x, "noise": rng.random()}, (x, y)

    found = importance(trials_of(conditional, count=96), OBJECTIVES)
    assert found.loc["drop", "val_accuracy"] > 0.9
    assert found.loc["noise", "val_accuracy"] < 0.1
    assert "method" in found.index


def test_nothing_to_explain():
    assert importance(trials_of(additive, count=7), OBJECTIVES).empty
    flat = trials_of(lambda x, y, rng: ({"x": x}, (0.5, y)))
    assert importance(flat, OBJECTIVES).loc["x", "val_accuracy"] == 0.0
    assert importance([], OBJECTIVES).empty


def test_axes_without_effect():
    found = without_effect(trials_of(additive), OBJECTIVES)
    assert list(found) == ["idle"] and 0.05 < found["idle"] <= 1.0

    def by_choice(x, y, rng):
        return {"good": x > 0.5, "other": str(rng.integers(3))}, (float(x > 0.5) + 0.1 * y, y)

    assert list(without_effect(trials_of(by_choice), OBJECTIVES)) == ["other"]
    assert without_effect(trials_of(additive, count=7), OBJECTIVES) == {}


def test_without_effect_errs_about_as_rarely_as_it_says():
    """An axis that does nothing is taken for one that acts in at most 5% of sweeps."""
    noise = [
        trials_of(lambda x, y, rng: ({"idle": rng.random()}, (x, y)), count=32, seed=seed)
        for seed in range(200)
    ]
    missed = sum("idle" not in without_effect(trials, OBJECTIVES) for trials in noise)
    assert missed <= 18  # 10 expected; the binomial's 99.5% quantile


@pytest.mark.slow
@pytest.mark.parametrize("evaluator", ["fanova", "ped_anova"])
def test_intervals_narrow_with_more_trials(evaluator):
    def wide(count):
        found = importance(trials_of(additive, count=count), OBJECTIVES, evaluator=evaluator)
        low, high = (found[f"val_accuracy{bound}"] for bound in ("_low", "_high"))
        assert (low <= found["val_accuracy"]).all() and (found["val_accuracy"] <= high).all()
        return (high - low)["x"]

    assert wide(96) < 0.7 * wide(12)


def test_few_trials_of_which_one_alone_differs():
    trials = trials_of(lambda x, y, rng: ({"x": x, "y": y}, (0.5, y)), count=9)
    trials[3].objectives["val_accuracy"] = 0.9
    found = importance(trials, OBJECTIVES)  # many a tree has drawn only what is alike
    assert found["val_accuracy"].sum() == pytest.approx(1.0)
    assert found["val_accuracy_high"].max() == 1.0


def test_choices_may_be_lists():
    def by_list(x, y, rng):
        return {"hidden": [10, 20] if x > 0.5 else [10], "y": y}, (float(x > 0.5) + 0.1 * y, y)

    found = importance(trials_of(by_list, count=64), OBJECTIVES)
    # Variances 1/4 and 1/1200.
    assert found.loc["hidden", "val_accuracy"] == pytest.approx(300 / 301, abs=0.02)
