"""MultiSeedTrainer against trainers that run alone."""

import math
import statistics

import pytest
import torch

from rsas import NonFiniteLoss, TrainConfig, Trainer, data
from rsas.columns import values_by_seed
from rsas.multi_seed import MultiSeedTrainer

CONFIG = TrainConfig(hidden=(20,), epochs=3, batch_size=100, update_interval=5, seed=9)
SEEDS = (0, 7)


def trained_with(seeds):
    arrays = data.load("digits")
    return MultiSeedTrainer(lambda seed: Trainer(CONFIG.replace(seed=seed), arrays), seeds)


@pytest.fixture(scope="module")
def alone():
    """The rows of each seed's own training."""
    arrays = data.load("digits")
    trainers = {seed: Trainer(CONFIG.replace(seed=seed), arrays) for seed in SEEDS}
    return {seed: [t.run_epoch() for _ in range(3)] for seed, t in trainers.items()}


def test_rows_are_means_of_what_each_seed_does_alone(alone):
    both = trained_with(SEEDS)
    assert both.epoch == 0
    for epoch in (1, 2, 3):
        row = both.run_epoch()
        assert row["epoch"] == epoch == both.epoch
        for name in ("train_loss", "val_loss", "val_accuracy", "sparsity"):
            values = [alone[seed][epoch - 1][name] for seed in SEEDS]
            assert [row[f"seed{seed}/{name}"] for seed in SEEDS] == values
            assert math.isclose(row[name], statistics.fmean(values))
        layers = {name for name in alone[0][0] if name.startswith("sparsity/")}
        assert layers and layers <= row.keys()
        assert row["seed0/val_loss"] != row["seed7/val_loss"]
    assert both.history[-1] is row


def test_seconds_add_up(monkeypatch):
    monkeypatch.setattr(Trainer, "run_epoch", lambda self: {"epoch": 1, "seconds": 2.0} | _ZERO)
    assert trained_with((1, 2, 3)).run_epoch()["seconds"] == 6.0


_ZERO = dict.fromkeys(("train_loss", "val_loss", "val_accuracy", "sparsity"), 0.0)


def test_goes_on_bit_for_bit():
    whole, first, second = (trained_with(SEEDS) for _ in range(3))
    rows = [whole.run_epoch() for _ in range(3)]
    first.run_epoch()
    second.load_state_dict(first.state_dict())
    assert second.epoch == 1
    again = [second.run_epoch() for _ in range(2)]
    assert [_timeless(row) for row in again] == [_timeless(row) for row in rows[1:]]
    ours, theirs = second.final_state()["model"], whole.final_state()["model"]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_model_is_that_of_the_first_seed():
    both = trained_with((7, 0))
    both.run_epoch()
    one = Trainer(CONFIG.replace(seed=7), data.load("digits"))
    one.run_epoch()
    assert both.final_state()["config"]["seed"] == 7
    ours, theirs = both.final_state()["model"], one.final_state()["model"]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_one_that_diverges_spoils_all():
    both = trained_with(SEEDS)
    torch.nn.init.constant_(next(both._trainers[7].model.parameters()), math.nan)
    with pytest.raises(NonFiniteLoss):
        both.run_epoch()
    assert both.epoch == 0


def test_values_by_seed_come_in_the_order_of_the_seeds():
    metrics = {"a": 1.5, "seed10/a": 1.0, "seed2/a": 2.0, "seed2/b": 3.0}
    assert values_by_seed(metrics, ["a", "b", "c"]) == {"a": [2.0, 1.0]}
    assert values_by_seed({"a": 1.5}, ["a"]) == {}


def _timeless(row):
    return {name: value for name, value in row.items() if name != "seconds"}
