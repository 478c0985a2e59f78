"""The real data sets, where RSAS_DATA_DIR has them (CI does)."""

import os
from pathlib import Path

import numpy as np
import pytest

from rsas import TrainConfig, Trainer, data
from tests.needs import lacking

FOLDERS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}


def arrays_of(name):
    if "RSAS_DATA_DIR" not in os.environ:
        pytest.skip("RSAS_DATA_DIR is not set")
    if not Path(os.environ["RSAS_DATA_DIR"], FOLDERS[name], "raw").is_dir():
        lacking(f"RSAS_DATA_DIR has no {FOLDERS[name]}")
    return data.load(name)


# Mean and deviation as everybody normalises with; accuracy after an epoch with a wide margin.
@pytest.mark.parametrize(
    ("name", "mean", "std", "accuracy"),
    [("mnist", 0.1307, 0.3081, 0.88), ("fashion_mnist", 0.2860, 0.3530, 0.75)],
)
def test_loads_and_trains(name, mean, std, accuracy):
    arrays = arrays_of(name)
    assert arrays.x_train.shape == (60_000, 1, 28, 28)
    assert arrays.x_test.shape == (10_000, 1, 28, 28)
    assert arrays.x_train.mean() / 255 == pytest.approx(mean, abs=1e-4)
    assert arrays.x_train.std() / 255 == pytest.approx(std, abs=1e-4)
    assert np.bincount(arrays.y_test).sum() == 10_000
    config = TrainConfig(dataset=name, method="static", sparsity=0.5, epochs=1, hidden=(100,))
    assert Trainer(config, arrays).run_epoch()["val_accuracy"] > accuracy
