"""Published experiment: MNIST, one hidden layer of 1000.

``experiment`` trains the repaired method on the published preset; ``published`` the algorithm
as it was published, in which only the pruning rate can be searched.
"""

from rsas.config import TrainConfig
from rsas.sweep.experiment import Budget, Experiment, Objective, as_published
from search_spaces.paper import paper, pruning_rate

BASE = TrainConfig(
    dataset="mnist",
    model="mlp",
    hidden=(1000,),
    epochs=100,
    batch_size=100,
    lr=0.1,
    sparsity=0.9,
)


def experiment() -> Experiment:
    return Experiment(
        name="mnist_shallow",
        base=BASE,
        space=paper,
        objectives=(
            Objective("val_accuracy", "max", worst=0.1),
            Objective("sparsity", "max", worst=0.0),
        ),
        budget=Budget(trials=64),
    )


def published() -> Experiment:
    return as_published(experiment(), pruning_rate)
