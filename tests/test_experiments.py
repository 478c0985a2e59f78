"""Every shipped experiment is loaded and trained for a few steps on stand-in data."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from rsas.sparse import PublishedPruning
from rsas.sweep.experiment import load_experiment
from rsas.sweep.suggest.space import check_space, idle_axes
from rsas.trainer import Trainer

FOLDER = Path(__file__).parents[1] / "experiments"
FILES = sorted(path.stem for path in FOLDER.glob("*.py"))
PUBLISHED = {
    "mnist_shallow": ("mlp", 100, 0.9),
    "svhn_shallow": ("mlp", 100, 0.9),
    "resnet18_cifar10": ("resnet18", 500, 0.5),
    "resnet18_cifar100": ("resnet18", 500, 0.5),
    "vgg16_cifar10": ("vgg16", 500, 0.5),
    "vgg16_cifar100": ("vgg16", 500, 0.5),
}
SHAPES = {"digits": (8, 8), "mnist": (28, 28), "fashion_mnist": (28, 28)}


def test_the_six_published_ones_are_there():
    assert set(PUBLISHED) | {"digits_quickstart", "fashion_mnist_shallow"} <= set(FILES)


@pytest.mark.parametrize(
    ("name", "preset"), [*PUBLISHED.items(), ("fashion_mnist_shallow", ("mlp", 10, 0.9))]
)
def test_published_presets(name, preset):
    experiment, _ = load_experiment(f"{FOLDER / name}.py:published")
    base = experiment.base
    assert (base.model, base.epochs, base.sparsity) == preset
    assert (base.optimizer, base.lr, base.batch_size) == ("sgd", 0.1, 100)
    assert (base.momentum, base.weight_decay, base.lr_schedule) == (0.0, 0.0, "constant")
    options = dataclasses.asdict(PublishedPruning())
    assert {option: getattr(base, option) for option in options} == options
    assert "measure_lr" not in check_space(experiment)  # it cannot act there


@pytest.mark.parametrize("name", FILES)
def test_every_experiment_trains(name, tmp_path):
    experiment, _ = load_experiment(str(FOLDER / f"{name}.py"))
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
    assert idle_axes(experiment) == []
