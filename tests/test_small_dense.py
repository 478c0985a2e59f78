"""The narrow dense network against counts by hand."""

import pytest

from rsas import TrainConfig, Trainer, data
from rsas.small_dense import layer_sizes, matching_width
from rsas.sparse import Target

MNIST = (1, 28, 28)


@pytest.mark.parametrize(
    ("sparsity", "hidden"),
    [(0.0, 1000), (0.5, 500), (0.9, 100), (0.98, 20), (0.999, 1), (0.99999, 1)],
)
def test_a_hidden_layer_of_794_weights_a_unit(sparsity, hidden):
    width = matching_width(TrainConfig(), Target(sparsity=sparsity), MNIST, 10)
    assert max(1, round(1000 * width)) == hidden


@pytest.mark.slow
@pytest.mark.parametrize("model", ["resnet18", "vgg16"])
@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.98])
def test_convolutions_come_near_the_budget(model, sparsity):
    import torch

    from rsas.models import build

    config = TrainConfig(model=model)
    full = sum(layer_sizes(config, (3, 32, 32), 10).values())
    width = matching_width(config, Target(sparsity=sparsity), (3, 32, 32), 10)
    with torch.device("meta"):
        narrow = build(config, (3, 32, 32), 10, width=width)
    count = sum(p.numel() for p in narrow.parameters() if p.dim() > 1)
    assert count == pytest.approx(full * (1 - sparsity), rel=0.03)


@pytest.mark.parametrize("model", ["mlp", "resnet18", "vgg16"])
def test_at_sparsity_0_it_is_the_dense_network(model):
    config = TrainConfig(model=model)
    assert matching_width(config, Target(sparsity=0.0), (3, 32, 32), 10) == 1.0


def test_its_sparsity_is_what_it_lacks():
    """On the same scale as that of pruned networks, so that both stand in one front."""
    config = TrainConfig(method="small_dense", sparsity=0.9, hidden=(300,), epochs=1)
    trainer = Trainer(config, data.load("digits"))
    row = trainer.run_epoch()
    assert trainer.model.fc1.out_features == 30
    assert row["sparsity"] == pytest.approx(0.9)
    assert row["sparsity/fc1"] == row["sparsity/fc2"] == pytest.approx(0.9)
    assert trainer.model.fc1.weight.all()


def test_layers_left_out_of_pruning_count_as_dense():
    """784 * 1000 * 0.1 and all of the 10,000 stay: 88,400 weights, 111 units of 794."""
    target = Target(sparsity=0.9, exclude=("fc2",))
    assert round(1000 * matching_width(TrainConfig(), target, MNIST, 10)) == 111
