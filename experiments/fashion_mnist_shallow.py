"""FashionMNIST, one hidden layer of 1000: minutes a trial on a CPU, and harder than MNIST."""

import dataclasses

from rsas import Budget, Experiment, Objective, TrainConfig, as_published
from search_spaces import layerwise, methods, schedule
from search_spaces.paper import paper, pruning_rate


def experiment() -> Experiment:
    return Experiment(
        name="fashion_mnist_shallow",
        base=TrainConfig(
            dataset="fashion_mnist",
            model="mlp",
            hidden=(1000,),
            epochs=10,
            batch_size=100,
            lr=0.1,
        ),
        space=paper,
        objectives=(
            Objective("val_accuracy", "max", worst=0.1),
            Objective("sparsity", "max", worst=0.0),
        ),
        budget=Budget(trials=32),
    )


def published() -> Experiment:
    """To mend its faults one at a time."""
    return as_published(experiment(), pruning_rate)


def by_method() -> Experiment:
    return dataclasses.replace(
        experiment(), name="fashion_mnist_methods", space=methods.methods, budget=Budget(trials=64)
    )


def tuned_set() -> Experiment:
    return dataclasses.replace(experiment(), name="fashion_mnist_set", space=methods.set_alone)


def tuned_rigl() -> Experiment:
    return dataclasses.replace(experiment(), name="fashion_mnist_rigl", space=methods.rigl_alone)


def tuned_gmp() -> Experiment:
    return dataclasses.replace(experiment(), name="fashion_mnist_gmp", space=methods.gmp_alone)


def by_schedule() -> Experiment:
    return dataclasses.replace(experiment(), name="fashion_mnist_schedule", space=schedule.schedule)


def by_layer() -> Experiment:
    return dataclasses.replace(experiment(), name="fashion_mnist_layers", space=layerwise.shallow)
