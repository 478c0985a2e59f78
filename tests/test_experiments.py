"""Every shipped experiment is loaded and trained for a few steps on stand-in data."""

import dataclasses
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from rsas.loop import run_loop
from rsas.sparse import PublishedPruning
from rsas.sweep.experiment import load_experiment
from rsas.sweep.suggest.space import check_space, unused_axes
from rsas.trainer import Trainer

FOLDER = Path(__file__).parents[1] / "experiments"

# model, epochs, sparsity, data set, accuracy of guessing, channel means, augmentation, CPUs and
# GPUs of a trial
IMAGENET = (0.485, 0.456, 0.406)
CROPS = "resized_crop_224"
PRESETS = {
    "mnist_shallow": ("mlp", 100, 0.9, "mnist", 0.1, (), "none", 1, 0),
    "svhn_shallow": ("mlp", 100, 0.9, "svhn", 0.1, (0.485, 0.456, 0.0406), "none", 1, 0),
    "resnet18_cifar10": ("resnet18", 500, 0.5, "cifar10", 0.1, IMAGENET, CROPS, 2, 1),
    "resnet18_cifar100": ("resnet18", 500, 0.5, "cifar100", 0.01, IMAGENET, CROPS, 2, 1),
    "vgg16_cifar10": ("vgg16", 500, 0.5, "cifar10", 0.1, IMAGENET, CROPS, 2, 1),
    "vgg16_cifar100": ("vgg16", 500, 0.5, "cifar100", 0.01, IMAGENET, CROPS, 2, 1),
}
FUNCTIONS = [
    *(
        f"{path.name}:experiment"
        for path in sorted(FOLDER.glob("*.py"))
        if path.stem not in ("published", "character_lm")
    ),
    *(f"published.py:{name}" for name in PRESETS),
]
SHAPES = {"digits": (8, 8), "mnist": (28, 28), "fashion_mnist": (28, 28)}


def published(spec):
    """Return the experiment; check the fields that are equal in all published ones."""
    experiment, _ = load_experiment(f"{FOLDER}/{spec}")
    base = experiment.base
    assert (base.optimizer, base.lr, base.batch_size) == ("sgd", 0.1, 100)
    assert (base.momentum, base.weight_decay, base.lr_schedule) == (0.0, 0.0, "constant")
    options = dataclasses.asdict(PublishedPruning())
    assert {option: getattr(base, option) for option in options} == options
    assert "measure_lr" not in check_space(experiment)  # it cannot act there
    return experiment


@pytest.mark.parametrize(("name", "preset"), PRESETS.items())
def test_published_presets(name, preset):
    experiment = published(f"published.py:{name}_published")
    repaired, _ = load_experiment(f"{FOLDER}/published.py:{name}")
    assert (repaired.name, experiment.name) == (name, f"{name}_published")
    assert check_space(repaired).keys() == {"sparsity", "measure_lr"}
    for variant in (repaired, experiment):
        base, resources = variant.base, variant.resources
        accuracy, sparsity = variant.objectives
        assert (
            *(base.model, base.epochs, base.sparsity, base.dataset, accuracy.worst, base.mean),
            *(base.augment, resources.cpus, resources.gpus),
        ) == preset
        assert base.std == ((0.229, 0.224, 0.225) if base.mean else ())
        assert base.hidden == (1000,)
        assert (accuracy.name, accuracy.direction) == ("val_accuracy", "max")
        assert (sparsity.name, sparsity.direction, sparsity.worst) == ("sparsity", "max", 0.0)
        assert variant.budget.trials == 64


def test_published_algorithm_on_fashion_mnist():
    base = published("fashion_mnist_shallow.py:published").base
    assert (base.model, base.epochs, base.sparsity) == ("mlp", 10, 0.9)


@pytest.mark.slow
@pytest.mark.parametrize("spec", FUNCTIONS)
def test_every_experiment_trains(spec, tmp_path):
    experiment, _ = load_experiment(f"{FOLDER}/{spec}")
    fields = check_space(experiment)
    base = experiment.base.replace(**fields)
    classes = 100 if base.dataset == "cifar100" else 10
    shape = SHAPES.get(base.dataset, (32, 32, 3))
    rng = np.random.default_rng(0)
    # Two training images a class would be many for VGG-16 on crops of 224 pixels.
    count = 8 if base.augment == "resized_crop_224" else 40
    y = np.arange(count) % 4
    y[0] = classes - 1  # the output has the width of the real data set
    x = rng.integers(0, 256, (count, *shape)).astype(np.uint8)
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y)
    config = base.replace(
        dataset=f"npz:{tmp_path / 'data.npz'}", epochs=1, batch_size=count // 2, val_fraction=0.0
    )
    row = Trainer(config).run_epoch()
    assert math.isfinite(row["train_loss"])
    assert row["sparsity"] == pytest.approx(config.sparsity, abs=1e-3)


def test_the_language_model_trains_by_a_loop_of_its_own(monkeypatch):
    experiment, _ = load_experiment(f"{FOLDER}/character_lm.py")
    loop = sys.modules["rsas_userfile_character_lm"]
    for name, value in {"STEPS": 20, "VALIDATION": 2, "BATCH": 4, "CONTEXT": 16}.items():
        monkeypatch.setattr(loop, name, value)
    text = loop.text
    monkeypatch.setattr(loop, "text", lambda: text(5000))
    assert unused_axes(experiment) == []
    chosen = {"epochs": 2, "sparsity": 0.8, "lr": 0.01, "update_interval": 5}
    config = experiment.config.replace(**check_space(experiment) | chosen)
    names = [objective.name for objective in experiment.objectives]
    result = run_loop(experiment.train, config, objectives=names)
    first, last = result.history.to_dict("records")
    assert last["val_perplexity"] < first["val_perplexity"] < loop.CHARACTERS
    layers = {name.removeprefix("sparsity/") for name in last if name.startswith("sparsity/")}
    weights = {
        f"blocks.layers.{block}.{name}"
        for block in (0, 1)
        for name in ("linear1", "linear2", *(f"self_attn.{p}_proj" for p in ("q", "k", "v", "out")))
    }
    assert layers == weights | {"head"}
    assert last["sparsity"] == pytest.approx(0.8, abs=1e-3)


@pytest.mark.parametrize(
    "spec",
    [
        "digits_quickstart.py:by_method",
        "fashion_mnist_shallow.py:by_method",
        "fashion_mnist_shallow.py:by_schedule",
        "fashion_mnist_shallow.py:tuned_set",
        "fashion_mnist_shallow.py:tuned_rigl",
        "fashion_mnist_shallow.py:tuned_gmp",
        "fashion_mnist_shallow.py:by_layer",
    ],
)
def test_variants_search_what_acts(spec):
    experiment, _ = load_experiment(f"{FOLDER}/{spec}")
    plain, _ = load_experiment(f"{FOLDER}/{spec.split(':')[0]}")
    assert experiment.name != plain.name
    assert experiment.base == plain.base
    assert check_space(experiment).keys() > {"sparsity"}
    assert unused_axes(experiment) == []
