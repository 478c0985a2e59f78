"""Which options act: told from the configuration, and seen in training."""

import dataclasses

import pytest
import torch

from rsas import InputError, TrainConfig, Trainer, data
from rsas.pruning import effective_fields, method_of, target_of, unused_fields
from rsas.sparse import (
    PublishedNoise,
    PublishedPruning,
    ReinforcedPruning,
    RigLPruning,
    SetPruning,
    Target,
)

BASE = TrainConfig(
    hidden=(20,), epochs=2, batch_size=50, momentum=0.9, lr=0.05, update_interval=10, sparsity=0.8
)
# Another value for every option of pruning, and for those of the optimisation.
OTHER = {
    "sparsity": 0.7,
    "distribution": "erk",
    "layer_densities": {"fc1": 1.0, "fc2": 3.0},
    "include": ("fc1",),
    "exclude": ("fc2",),
    "update_interval": 7,
    "update_stop": 0.4,
    "drop_fraction": 0.6,
    "measure_lr": 0.5,
    "measure_update": "accumulate",
    "credit": "global",
    "attribution": "loss_change",
    "credit_steps": 4,
    "reward": "loss_increase",
    "reward_baseline": "mean",
    "paired": True,
    "count_first_loss": True,
    "budget": "overshoot",
    "exploration": "linear",
    "exploration_start": 0.8,
    "exploration_end": 0.2,
    "exploration_stop": 0.4,
    "exploration_draw": "uniform",
    "update_clock": "epoch",
    "exploration_steps": 4,
    "grow_steps": 4,
    "regrow": "latent",
    "regrow_scale": 3.0,
    "momentum": 0.5,
    "hidden": (10,),
    "first_mask": "magnitude",
    "nesterov": True,
    "weight_decay": 0.01,
    "decay": "weights",
    "lr_schedule": "multi_step",
    "milestones": (0.2,),
    "gamma": 0.5,
    "warmup": 0.4,
    "label_smoothing": 0.2,
    "clip_norm": 0.1,
    "accumulate": 2,
    "average": "last",
    "average_decay": 0.5,
    "average_part": 0.5,
}
GLOBAL = {"credit": "global", "exploration_draw": "uniform", "measure_lr": 0.25}
VARIANTS = {
    **{
        name: {"method": name}
        for name in ("dense", "small_dense", "static", "set", "rigl", "gmp", "noise")
    },
    "per_weight": {},
    "per_weight, accumulated": {"measure_update": "accumulate", "attribution": "loss_change"},
    "regrown": {"regrow": "gradient", "exploration_steps": 3},
    "drawn and regrown": GLOBAL | {"regrow": "gradient"},
    "map": {"distribution": "map", "layer_densities": {"*": 1.0}},
    "adam": {"optimizer": "adam", "lr": 0.003},
    "without momentum": {"method": "static", "momentum": 0.0},
    "decayed": {"method": "static", "optimizer": "adamw", "lr": 0.003, "weight_decay": 0.1},
    "in steps": {"method": "static", "lr_schedule": "multi_step"},
    "averaged": {"method": "set", "average": "ema"},
    "averaged at the end": {"method": "rigl", "average": "last"},
    "global": GLOBAL,
    "accumulate": GLOBAL | {"measure_update": "accumulate"},
    "paired": GLOBAL | {"paired": True},
    "overshoot": GLOBAL | {"budget": "overshoot"},
    "nothing off": {"sparsity": 0.0},
    "nothing dropped": {"method": "set", "drop_fraction": 0.0},
    "nothing grown": {"method": "rigl", "drop_fraction": 0.0},
    "constant": {"exploration": "constant"},
    "nothing explored": {"exploration_start": 0.0},
}
# What acts in general, but not here: without exploration, saliency is above 0 for the first mask
# and 0 for all other weights, so that mask stays whatever its values are.
FIRST_MASK_STAYS = {"measure_lr", "measure_update", "credit_steps", "update_interval"}
UNSEEN = {("nothing explored", name) for name in (*FIRST_MASK_STAYS, "exploration_stop")}


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def trained(config, digits):
    trainer = Trainer(config, digits)
    for _ in range(config.epochs):
        trainer.run_epoch()
    return torch.cat([value.flatten() for value in trainer.final_state()["model"].values()])


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_unused_options_change_nothing_and_the_others_something(variant, digits):
    config = BASE.replace(**VARIANTS[variant])
    without = unused_fields(config)
    expected = trained(config, digits)
    for name, value in OTHER.items():
        changed = config.replace(**{name: value})
        if changed == config:
            continue
        weights = trained(changed, digits)
        same = weights.shape == expected.shape and torch.equal(weights, expected)
        if name in without:
            assert same, f"{name} is told to do nothing: {without[name]}"
            assert effective_fields(changed) == effective_fields(config)
        elif (variant, name) not in UNSEEN:
            assert not same, f"{name} does nothing, and nobody tells"
            assert effective_fields(changed) != effective_fields(config)


def test_method_and_target_have_the_options_of_the_configuration():
    config = TrainConfig(method="rigl", drop_fraction=0.2, update_interval=7, distribution="erk")
    assert method_of(config) == RigLPruning(drop_fraction=0.2, update_interval=7)
    assert target_of(config) == Target(sparsity=0.9, distribution="erk")
    assert type(method_of(config.replace(method="set"))) is SetPruning
    assert method_of(config.replace(method="dense")) is None
    assert method_of(config.replace(method="small_dense")) is None
    assert method_of(TrainConfig(credit="global")) == ReinforcedPruning(credit="global")
    published = TrainConfig(**dataclasses.asdict(PublishedPruning()))
    assert method_of(published) == PublishedPruning()
    mended = published.replace(update_clock="training", count_first_loss=False)
    assert type(method_of(mended)) is PublishedPruning
    assert type(method_of(mended.replace(budget="exact"))) is ReinforcedPruning
    assert type(method_of(mended.replace(method="noise"))) is PublishedNoise


def test_patterns_that_fit_no_layer_are_refused(digits):
    with pytest.raises(InputError, match="exclude: 'fc9' fits no layer; they are fc1, fc2"):
        Trainer(BASE.replace(exclude=("fc9",)), digits)
    with pytest.raises(InputError, match="no weight for method 'reinforced'"):
        Trainer(BASE.replace(exclude=("*",)), digits)
