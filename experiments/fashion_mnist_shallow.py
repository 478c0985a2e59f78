"""FashionMNIST, one hidden layer of 1000: minutes a trial on a CPU, and harder than MNIST."""

from rsas.config import TrainConfig
from rsas.search.experiment import Budget, Experiment, Objective
from search_spaces.paper import paper


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
