"""Published experiment: VGG-16 on CIFAR-100, crops of 224 pixels.

``experiment`` trains the repaired method on the published preset; ``published`` the algorithm
as it was published, in which only the pruning rate can be searched.
"""

from rsas.config import TrainConfig
from rsas.sweep.experiment import Budget, Experiment, Objective, Resources, as_published
from search_spaces.paper import paper, pruning_rate

BASE = TrainConfig(
    dataset="cifar100",
    model="vgg16",
    epochs=500,
    batch_size=100,
    lr=0.1,
    sparsity=0.5,
    augment="resized_crop_224",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)


def experiment() -> Experiment:
    return Experiment(
        name="vgg16_cifar100",
        base=BASE,
        space=paper,
        objectives=(
            Objective("val_accuracy", "max", worst=0.01),
            Objective("sparsity", "max", worst=0.0),
        ),
        budget=Budget(trials=64),
        resources=Resources(cpus=2, gpus=1),
    )


def published() -> Experiment:
    return as_published(experiment(), pruning_rate)
