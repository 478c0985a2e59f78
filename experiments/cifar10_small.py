"""A part of CIFAR-10 and a small convolutional network: minutes a trial on a CPU.

The data set is a file of 10,000 images to train and 2,000 to test, ``cifar10_10k_2k.npz``, here
or in the folder of the data sets.
"""

from itertools import pairwise

from torch import nn

from rsas import Budget, Experiment, Objective, TrainConfig
from search_spaces.paper import paper


def convnet(num_classes: int, width_multiplier: float = 1.0) -> nn.Module:
    """Three convolutions of 3x3 with BatchNorm, each halving the picture, and a linear layer."""
    widths = [3, *(max(1, round(width * width_multiplier)) for width in (32, 64, 128))]
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * 4 * 4, num_classes))


def experiment() -> Experiment:
    return Experiment(
        name="cifar10_small",
        base=TrainConfig(
            dataset="npz:cifar10_10k_2k.npz",
            model="cifar10_small:convnet",
            epochs=20,
            batch_size=100,
            lr=0.02,
            momentum=0.9,
            lr_schedule="cosine",
            augment="flip_crop",
        ),
        space=paper,
        objectives=(
            Objective("val_accuracy", "max", worst=0.1),
            Objective("sparsity", "max", worst=0.0),
        ),
        budget=Budget(trials=32),
    )
