"""The shipped spaces: every field they set is valid, and every axis acts."""

import dataclasses
from typing import get_args, get_type_hints

import pytest

from rsas import Trainer, data
from rsas.config import TrainConfig
from rsas.sweep.experiment import load_experiment
from rsas.sweep.suggest.space import check_space, unused_axes
from search_spaces import layerwise, methods, paper, schedule

SPACES = {
    "paper": paper.paper,
    "pruning_rate": paper.pruning_rate,
    "schedule": schedule.schedule,
    "shallow": layerwise.shallow,
    "methods": methods.methods,
    "set": methods.set_alone,
    "rigl": methods.rigl_alone,
    "gmp": methods.gmp_alone,
}
BASE = TrainConfig(hidden=(20,), epochs=1, batch_size=50)


@pytest.fixture
def experiment():
    found, _ = load_experiment("experiments/digits_quickstart.py")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_axis_acts_wherever_it_is_asked_for(name, seed, experiment):
    space = dataclasses.replace(experiment, space=SPACES[name], seed=seed)
    assert "sparsity" in check_space(space)
    assert unused_axes(space) == []


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("method", methods.METHODS)
def test_every_space_holds_the_defaults(name, method, experiment):
    """What people compare with has to be among what is searched."""

    class Defaults:
        def suggest_float(self, field, low, high, **_):
            return self.within(field, low, high)

        suggest_int = suggest_float

        def suggest_categorical(self, field, choices):
            chosen = method if field == "method" else getattr(TrainConfig(), field)
            assert chosen in choices, f"{field}={chosen} is not among {choices}"
            return chosen

        def within(self, field, low, high):
            value = 1.0 if field.startswith("density_") else getattr(TrainConfig(), field)
            assert low <= value <= high, f"{field}={value} is not in [{low}, {high}]"
            return value

    assert SPACES[name](Defaults())["sparsity"] == TrainConfig().sparsity


def test_layer_patterns_of_any_form_give_an_axis(experiment):
    space = layerwise.layerwise("fc1", "fc[2-9]*")
    assert "layer_densities" in check_space(dataclasses.replace(experiment, space=space))


def test_the_methods_are_all_that_a_sweep_can_compare():
    every = set(get_args(get_type_hints(TrainConfig)["method"]))
    assert every - set(methods.METHODS) == {"dense"}  # a point of its own, without an axis


def test_layerwise_keeps_the_budget_of_the_whole(experiment):
    space = layerwise.layerwise("fc1", "*")
    import optuna

    for seed in range(5):
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        fields = space(study.ask())
        config = BASE.replace(**fields)
        trainer = Trainer(config, data.load("digits"))
        row = trainer.run_epoch()
        size = 64 * 20 + 20 * 10
        assert row["sparsity"] == round(size * config.sparsity) / size
        assert row["sparsity/fc1"] != pytest.approx(row["sparsity/fc2"], abs=0.01)
