"""Spaces tried before a sweep begins."""

import dataclasses
import itertools
import random

import pytest

from rsas import InputError
from rsas.config import TrainConfig
from rsas.sweep.experiment import Experiment, Objective
from rsas.sweep.suggest.space import check_points, check_space, unused_axes


def experiment(space, **base):
    return Experiment(
        name="test",
        base=TrainConfig(**base),
        space=space,
        objectives=(Objective("val_accuracy", "max", worst=0.1),),
    )


def rates(trial):
    return {
        "sparsity": trial.suggest_float("sparsity", 0.5, 0.99),
        "measure_lr": trial.suggest_float("measure_lr", 1e-3, 1.0, log=True),
    }


def conditional(trial):
    fields = {
        "sparsity": trial.suggest_float("sparsity", 0.5, 0.99),
        "hidden": [trial.suggest_int("width", 100, 500, step=100)],
        "method": trial.suggest_categorical("method", ["static", "set"]),
    }
    if fields["method"] == "set":
        fields["drop_fraction"] = trial.suggest_float("drop_fraction", 0.1, 0.5)
    return fields


def test_fields_of_all_branches_are_found():
    def space(trial):
        name = trial.suggest_categorical("which", ["lr", "momentum"])
        return {name: trial.suggest_float(name, 0.1, 0.5)}

    assert set(check_space(experiment(space))) == {"lr", "momentum"}


def test_names_that_mlflow_refuses_are_refused_before():
    def space(trial):
        return {"hidden": [trial.suggest_int("hidden[0]", 10, 20)]}

    with pytest.raises(InputError, match=r"parameter 'hidden\[0\]'"):
        check_space(experiment(space))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sparcity": 0.5}, "unknown field 'sparcity'.*did you mean 'sparsity'"),
        ({"sparsity": 1.5}, r"sparsity=1.5: expected a number in \[0, 1\)"),
        ({"dataset": "mnist"}, "'dataset' is the same for all trials"),
    ],
)
def test_a_space_is_checked_before_a_sweep(fields, message):
    with pytest.raises(InputError, match=message):
        check_space(experiment(lambda trial: fields))


def test_a_space_that_raises_is_named():
    def broken(trial):
        return trial.suggest_flaot("x", 0, 1)

    with pytest.raises(InputError, match="broken.*AttributeError"):
        check_space(experiment(broken))


def drawn(trial):
    return {"sparsity": trial.suggest_float("sparsity", 0.5, 0.9), "lr": random.uniform(0.1, 1)}


def scaled(trial):
    return {"sparsity": trial.suggest_float("sparsity", 0.5, 0.9) * random.random()}


def counting():
    count = itertools.count(1)
    return lambda trial: {"epochs": next(count)}


def ranged(trial):
    return {"sparsity": trial.suggest_float("sparsity", random.uniform(0.1, 0.5), 0.9)}


def named(trial):
    trial.suggest_float(f"draw {random.random()}", 0.1, 0.9)
    return {}


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (drawn, "lr=0.*, then 0"),
        (scaled, "sparsity=0.*, then 0"),
        (counting(), "epochs=1, then 2"),
        (ranged, "another range of a parameter"),
        (named, "another parameter"),
    ],
)
def test_a_space_that_draws_by_itself_is_refused(space, message):
    rule = "all that is random must come from the trial"
    with pytest.raises(
        InputError, match=f"asked twice for one trial, it gives {message}.*; {rule}"
    ):
        check_space(experiment(space))


def test_a_space_that_draws_from_what_the_trial_gives_is_no_matter():
    def space(trial):
        drawn = random.Random(trial.suggest_int("draw", 0, 999))
        return {"include": [drawn.choice(["fc1", "fc2"]), "*"], "layer_densities": {"*": 1.0}}

    assert set(check_space(experiment(space))) == {"include", "layer_densities"}


def test_a_space_that_is_rarely_wrong_is_found():
    def rare(trial):
        return {"sparsity": trial.suggest_float("s", 0.0, 1.3)}

    with pytest.raises(InputError, match="expected a number in"):
        check_space(experiment(rare))


@pytest.mark.parametrize(
    "point",
    [
        {},
        {"method": "static"},
        {"sparsity": 0.5, "method": "set", "drop_fraction": 0.2, "width": 300},
        {"sparsity": 0.99},
    ],
)
def test_points_that_a_space_can_have(point, recwarn):
    check_points(experiment(conditional), [point])
    assert not recwarn.list


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"sparcity": 0.5}, "the space asks for sparsity, width, method.*, not for 'sparcity'"),
        ({"method": "static", "drop_fraction": 0.2}, "asks for .*, not for 'drop_fraction'"),
        ({"sparsity": 1.5}, "sparsity=1.5: expected a value of FloatDistribution"),
        ({"width": 305}, "width=305: expected a value of IntDistribution"),
        ({"width": 600}, "width=600: expected a value of IntDistribution"),
        pytest.param(
            {"method": "rigl"},
            "method='rigl': ",
        ),
        pytest.param(
            {"sparsity": "half"},
            "sparsity='half': ",
        ),
        pytest.param(
            {"sparsity": None},
            "sparsity=None: ",
        ),
    ],
)
def test_points_that_a_space_cannot_have_are_named(point, message):
    with pytest.raises(InputError, match=f"^point 1 to enqueue: .*{message}"):
        check_points(experiment(conditional), [{}, point])


def test_the_space_of_the_paper_acts_by_default():
    assert unused_axes(experiment(rates)) == []


@pytest.mark.parametrize(
    ("base", "line"),
    [
        (
            {"measure_update": "accumulate", "credit": "global"},
            "measure_lr does nothing: measure_update='accumulate' makes all values proportional",
        ),
        ({"method": "static"}, "measure_lr does nothing: method='static' has no use for it"),
        ({"method": "noise"}, "measure_lr does nothing: method='noise' has no use for it"),
    ],
)
def test_an_axis_that_cannot_act_is_named_with_the_reason(base, line):
    (found,) = unused_axes(experiment(rates, **base))
    assert found.startswith(line)


def test_an_axis_that_acts_for_some_methods_only():
    def space(trial):
        return {
            "method": trial.suggest_categorical("method", ["static", "set"]),
            "drop_fraction": trial.suggest_float("drop_fraction", 0.1, 0.5),
        }

    (found,) = unused_axes(experiment(space))
    assert found.startswith("drop_fraction does nothing in ")
    assert " of 16 configurations tried: method='static' has no use for it" in found

    assert unused_axes(experiment(conditional)) == []


def test_an_axis_that_is_no_field_is_judged_by_what_it_changes():
    def space(trial):
        share = trial.suggest_float("share of the first layer", 0.1, 0.9)
        trial.suggest_int("forgotten", 1, 9)
        return {"distribution": "map", "layer_densities": {"fc1": share, "fc2": 1 - share}}

    assert unused_axes(experiment(space)) == [
        "forgotten does nothing: no effective field depends on it"
    ]
    (of_uniform, _) = unused_axes(
        experiment(lambda trial: space(trial) | {"distribution": "uniform"})
    )
    assert of_uniform.startswith("share of the first layer does nothing: no effective field")


def test_an_axis_that_is_rounded_acts():
    def space(trial):
        return {"hidden": [round(trial.suggest_float("width", 5, 15))]}

    for seed in range(4):
        assert unused_axes(dataclasses.replace(experiment(space), seed=seed)) == []


def test_axes_with_one_value_and_spaces_that_raise_are_no_matter():
    def space(trial):
        if trial.suggest_float("sparsity", 0.5, 0.9) > 0.7:
            raise ValueError
        return {"momentum": trial.suggest_categorical("momentum", [0.9])}

    assert unused_axes(experiment(space)) == [
        "sparsity does nothing: no effective field depends on it"
    ]
