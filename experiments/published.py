"""The six published presets, and the published algorithm on each of them.

``mnist_shallow`` trains the repaired method on its preset. ``mnist_shallow_published`` trains the
algorithm as it was published, in which only the pruning rate can be searched. The other five
presets have the same two functions.
"""

from typing import Any

from rsas import Budget, Experiment, Objective, Resources, TrainConfig, as_published
from search_spaces.paper import paper, pruning_rate


def mnist_shallow() -> Experiment:
    return _shallow("mnist")


def svhn_shallow() -> Experiment:
    # The last mean is as published; ImageNet's is 0.406.
    return _shallow("svhn", mean=(0.485, 0.456, 0.0406), std=(0.229, 0.224, 0.225))


def resnet18_cifar10() -> Experiment:
    return _deep("resnet18", "cifar10")


def resnet18_cifar100() -> Experiment:
    return _deep("resnet18", "cifar100", worst=0.01)


def vgg16_cifar10() -> Experiment:
    return _deep("vgg16", "cifar10")


def vgg16_cifar100() -> Experiment:
    return _deep("vgg16", "cifar100", worst=0.01)


def mnist_shallow_published() -> Experiment:
    return as_published(mnist_shallow(), pruning_rate)


def svhn_shallow_published() -> Experiment:
    return as_published(svhn_shallow(), pruning_rate)


def resnet18_cifar10_published() -> Experiment:
    return as_published(resnet18_cifar10(), pruning_rate)


def resnet18_cifar100_published() -> Experiment:
    return as_published(resnet18_cifar100(), pruning_rate)


def vgg16_cifar10_published() -> Experiment:
    return as_published(vgg16_cifar10(), pruning_rate)


def vgg16_cifar100_published() -> Experiment:
    return as_published(vgg16_cifar100(), pruning_rate)


def _shallow(dataset: str, **fields: Any) -> Experiment:
    """One hidden layer of 1000."""
    base = TrainConfig(
        dataset=dataset,
        model="mlp",
        hidden=(1000,),
        epochs=100,
        batch_size=100,
        lr=0.1,
        sparsity=0.9,
        **fields,
    )
    return _preset(f"{dataset}_shallow", base, 0.1, Resources())


def _deep(model: str, dataset: str, worst: float = 0.1) -> Experiment:
    """A convolutional network on crops of 224 pixels, on one GPU."""
    base = TrainConfig(
        dataset=dataset,
        model=model,
        epochs=500,
        batch_size=100,
        lr=0.1,
        sparsity=0.5,
        augment="resized_crop_224",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    return _preset(f"{model}_{dataset}", base, worst, Resources(cpus=2, gpus=1))


def _preset(name: str, base: TrainConfig, worst: float, resources: Resources) -> Experiment:
    """Return a sweep of 64 trials; ``worst`` is the accuracy of guessing."""
    return Experiment(
        name=name,
        base=base,
        space=paper,
        objectives=(
            Objective("val_accuracy", "max", worst=worst),
            Objective("sparsity", "max", worst=0.0),
        ),
        budget=Budget(trials=64),
        resources=resources,
    )
