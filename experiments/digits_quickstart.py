"""What ``make sweep`` runs: the paper's space on the digits data, which need no download."""

import dataclasses

from rsas import Budget, Experiment, Objective, TrainConfig
from search_spaces.methods import methods
from search_spaces.paper import paper


def experiment() -> Experiment:
    return Experiment(
        name="digits_quickstart",
        base=TrainConfig(
            dataset="digits",
            model="mlp",
            hidden=(50,),  # so small that the trade-off lies within the range searched
            epochs=40,
            batch_size=50,
            lr=0.05,
            momentum=0.9,
            update_interval=20,
        ),
        space=paper,
        objectives=(
            Objective("val_accuracy", "max", worst=0.1),
            Objective("sparsity", "max", worst=0.0),
        ),
        budget=Budget(trials=24),
        checkpoint_every=40,  # of epochs that take less time than a file
    )


def by_method() -> Experiment:
    return dataclasses.replace(experiment(), name="digits_methods", space=methods)
