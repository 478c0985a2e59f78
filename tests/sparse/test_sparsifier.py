"""Masks on a model while an optimizer moves its weights."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from rsas.sparse import Position, ReinforcedPruning, Sparsifier, StaticPruning


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    )


def nothing():
    pass


def train(model, method, *, sparsity=0.8, steps=12, optimizer=None, before=nothing, check=nothing):
    """Train; ``before`` and ``check`` are called on both sides of each sparsifier step."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(5)
    sparsifier = Sparsifier(model, optimizer, method, sparsity=sparsity, generator=generator)
    x = torch.randn(16, 1, 6, 6, generator=generator)
    y = torch.randint(0, 3, (16,), generator=generator)
    for step in range(steps):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        sparsifier.observe(loss.detach())
        optimizer.step()
        before()
        sparsifier.step(Position(0, step, 1, steps))
        check()
    return sparsifier


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=1e-3),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("regrow", ["zero", "latent"])
@settings(max_examples=10, deadline=None)
@given(sparsity=st.floats(0, 1))
def test_every_layer_has_its_k_weights_after_every_step(optimizer, regrow, sparsity):
    model = network()
    weights = [model[0].weight, model[4].weight]
    keeps = [w.numel() - round(w.numel() * sparsity) for w in weights]

    def check():
        for weight, keep in zip(weights, keeps, strict=True):
            assert (weight != 0).sum() <= keep

    method = ReinforcedPruning(update_interval=2, regrow=regrow)
    sparsifier = train(
        model,
        method,
        sparsity=sparsity,
        optimizer=OPTIMIZERS[optimizer](model.parameters()),
        check=check,
    )
    sparsifier.attach()
    for module, keep in ((model[0], keeps[0]), (model[4], keeps[1])):
        assert int(module.weight_mask.sum()) == keep
        assert not module.weight_orig[module.weight_mask == 0].any()


def exploring(regrow):
    """All weights drawn anew at every step but the last."""
    return ReinforcedPruning(
        update_interval=1,
        exploration="constant",
        exploration_start=1.0,
        exploration_stop=1.0,
        regrow=regrow,
    )


def test_latent_weights_go_on_from_where_they_were_switched_off():
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3, bias=False))
    weight = model[1].weight
    latent = torch.full_like(weight, torch.nan)  # last value of each weight while it was on
    on = torch.zeros_like(weight, dtype=torch.bool)
    came_back_in_all = 0

    def before():
        latent[on] = weight.detach()[on]

    def check():
        nonlocal on, came_back_in_all
        now = weight.detach() != 0
        came_back = now & ~on & ~latent.isnan()
        assert torch.equal(weight[came_back], latent[came_back])
        came_back_in_all += int(came_back.sum())
        on = now

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train(model, exploring("latent"), optimizer=optimizer, before=before, check=check, steps=20)
    assert came_back_in_all > 50


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_weights_regrow_at_zero_and_forgotten_by_the_optimizer(optimizer):
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3, bias=False))
    weight = model[1].weight
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    generator = torch.Generator().manual_seed(0)
    method = exploring("zero")
    sparsifier = Sparsifier(model, optimizer, method, sparsity=0.5, generator=generator)
    x, y = torch.randn(16, 1, 6, 6, generator=generator), torch.arange(16) % 3
    came_back_in_all = 0
    mask = sparsifier.state_dict()["layers"]["1"]["mask"]
    for step in range(20):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        sparsifier.observe(loss.detach())
        sparsifier.step(Position(0, step, 1, 20))
        before, mask = mask, sparsifier.state_dict()["layers"]["1"]["mask"]
        came_back = mask & ~before
        assert not weight[came_back].any()
        for value in optimizer.state[weight].values():
            if value.shape == weight.shape:
                assert not value[came_back].any()
                assert value[mask & before].all()  # others are remembered
        came_back_in_all += int(came_back.sum())
    assert came_back_in_all > 50


def test_measured_sparsity_counts_the_weights_that_are_off():
    model = network()
    sparsifier = train(model, StaticPruning(), sparsity=0.75)
    overall, by_layer = sparsifier.sparsity()
    off = {"0": (model[0].weight == 0).sum().item(), "4": (model[4].weight == 0).sum().item()}
    assert by_layer == {"0": off["0"] / 36, "4": off["4"] / 192}
    assert overall == (off["0"] + off["4"]) / 228
    assert overall == 0.75


def test_dense_has_no_masks():
    model = network()
    sparsifier = train(model, None)
    assert sparsifier.sparsity() == (0.0, {"0": 0.0, "4": 0.0})
    sparsifier.attach()
    assert not prune.is_pruned(model)


def test_attached_masks_are_ordinary_ones_of_torch():
    model = network()
    sparsifier = train(model, ReinforcedPruning(update_interval=3))
    x = torch.randn(2, 1, 6, 6)
    before = model.eval()(x)
    sparsifier.attach()
    assert prune.is_pruned(model)
    assert {"4.weight_orig", "4.weight_mask"} <= model.state_dict().keys()
    assert torch.equal(model(x), before)
    for module in (model[0], model[4]):
        prune.remove(module, "weight")
    assert not prune.is_pruned(model)
    assert torch.equal(model(x), before)


def test_channels_last():
    model = network().to(memory_format=torch.channels_last)
    for regrow in ("zero", "latent"):
        train(model, ReinforcedPruning(update_interval=2, regrow=regrow), sparsity=0.5)
    assert (model[0].weight != 0).sum() <= 18


def test_a_shared_weight_has_one_mask():
    layer = nn.Linear(6, 6)
    twin = nn.Linear(6, 6)
    twin.weight = layer.weight
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 6), layer, nn.ReLU(), twin, nn.Linear(6, 3))
    sparsifier = train(model, ReinforcedPruning(update_interval=2), sparsity=0.5)
    assert list(sparsifier.sparsity()[1]) == ["1", "2", "5"]
    sparsifier.attach()
    assert torch.equal(layer.weight_mask, twin.weight_mask)
    assert layer.weight_mask.sum() == 18
