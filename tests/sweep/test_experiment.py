"""Experiments: what they refuse, and how their configuration is stored."""

import dataclasses

import pytest

from rsas import InputError, Objective, Pruning, TrainConfig
from rsas.config import LoopConfig
from rsas.sweep.experiment import Experiment
from tests.loops import experiment, space, train
from tests.made import OBJECTIVES


def built_in(**options):
    return Experiment(
        **{"name": "one", "base": TrainConfig(), "space": space, "objectives": OBJECTIVES} | options
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base": None}, "base=None: expected a TrainConfig"),
        ({"epochs": 3}, "epochs=3: belongs to train="),
        ({"pruning": Pruning()}, "belongs to train="),
        ({"params": {"lr": 0.1}}, "belongs to train="),
        ({"objectives": (Objective("accuracy", "max", 0.0),)}, "expected one of epoch, train_loss"),
        ({"base": TrainConfig(val_fraction=0)}, "objectives are measured on a validation split"),
    ],
)
def test_what_a_built_in_training_refuses(options, message):
    with pytest.raises(InputError, match=message):
        built_in(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base": TrainConfig()}, "base, train: expected one of them"),
        ({"train": 5}, "train=5: expected a function of a rsas.Run"),
        ({"epochs": None}, "train= needs the number of epochs"),
        ({"epochs": 0}, r"epochs=0: expected an integer in \[1, "),
        ({"pruning": {"sparsity": 0.5}}, "expected a Pruning"),
        ({"pruning": Pruning(method="small_dense")}, "an own loop builds its model itself"),
        ({"params": {"lr": float("nan")}}, "parameter lr=nan: expected a JSON value"),
        ({"objectives": (Objective("a/b\n", "max", 0.0),)}, "expected letters and digits"),
        ({"objectives": (Objective("sparsity/fc1", "max", 0.0),)}, "expected letters and digits"),
    ],
)
def test_what_a_loop_refuses(options, message):
    with pytest.raises(InputError, match=message):
        experiment(**options)


def test_the_configuration_of_a_loop_has_pruning_epochs_and_parameters():
    config = experiment(params={"depth": 3}).config
    assert (config.method, config.update_interval, config.epochs) == ("rigl", 4, 4)
    assert config.params == {"depth": 3}


@pytest.mark.parametrize("one", [built_in(), experiment(params={"depth": 3}, seeds=(0, 1))])
def test_stored_and_read_it_is_the_same(one):
    again = Experiment.from_dict(one.to_dict(), one.space, one.train)
    assert again.to_dict() == one.to_dict()
    assert again.config == one.config


def test_the_code_of_the_other_kind_is_refused():
    for one, other in ((built_in(), experiment()), (experiment(), built_in())):
        with pytest.raises(InputError, match="not the training of this experiment"):
            Experiment.from_dict(one.to_dict(), other.space, other.train)


def test_another_configuration():
    one = experiment()
    changed = one.with_config(one.config.override(["epochs=7", "lr=0.5", "device=cpu"]))
    assert isinstance(changed.config, LoopConfig)
    assert (changed.epochs, changed.config.params) == (7, {"lr": 0.5})
    assert changed.config.device == "cpu"
    assert dataclasses.replace(changed, train=train).config == changed.config
