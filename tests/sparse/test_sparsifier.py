"""Masks on a model while an optimizer moves its weights."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune
from torch.utils._python_dispatch import TorchDispatchMode

from rsas.errors import InputError
from rsas.sparse import (
    GradualPruning,
    NoisePruning,
    Position,
    ReinforcedPruning,
    RigLPruning,
    SetPruning,
    Sparsifier,
    StaticPruning,
    Target,
    masks,
    prunable,
)

METHODS = {
    "static": StaticPruning(),
    "set": SetPruning(update_interval=2),
    "rigl": RigLPruning(update_interval=2, drop_fraction=0.9),
    "rigl, summed": RigLPruning(update_interval=3, drop_fraction=0.9, grow_steps=2),
    "gmp": GradualPruning(update_interval=2),
    "noise": NoisePruning(update_interval=2),
    "zero": ReinforcedPruning(
        update_interval=2, credit="global", exploration_draw="uniform", regrow="zero"
    ),
    "latent": ReinforcedPruning(update_interval=2, credit="global", regrow="latent"),
    "loss_change": ReinforcedPruning(
        update_interval=3, credit="per_weight", attribution="loss_change", credit_steps=2
    ),
    "saliency": ReinforcedPruning(
        update_interval=3,
        credit="per_weight",
        credit_steps=2,
        reward_baseline="mean",
        exploration_draw="gradient",
        regrow="zero",
    ),
    "regrown": ReinforcedPruning(update_interval=3, exploration_steps=2, regrow="gradient"),
    "paired": ReinforcedPruning(
        update_interval=3, credit="global", paired=True, reward_baseline="mean"
    ),
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    )


def nothing():
    pass


def train(
    model,
    method,
    *,
    sparsity=0.8,
    distribution="uniform",
    steps=12,
    optimizer=None,
    shape=(1, 6, 6),
    before=nothing,
    check=nothing,
):
    """Train; ``before`` and ``check`` are called on both sides of each sparsifier step."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(5)
    target = Target(sparsity=sparsity, distribution=distribution)
    sparsifier = Sparsifier(model, optimizer, method, target, generator=generator)
    x = torch.randn(16, *shape, generator=generator)
    y = torch.randint(0, 3, (16,), generator=generator)
    for step in range(steps):
        at = Position(0, step, 1, steps)
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        sparsifier.observe(loss.detach(), at)
        optimizer.step()
        before()
        sparsifier.step(at, lambda: nn.functional.cross_entropy(model(x), y))
        check()
    return sparsifier


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=1e-3),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
}


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=12, deadline=None)
@given(
    sparsity=st.one_of(st.just(0.0), st.just(1 - 2**-53), st.floats(0, 1, exclude_max=True)),
    distribution=st.sampled_from(["uniform", "erk"]),
    inputs=st.integers(1, 5),
    channels=st.integers(1, 4),
)
def test_every_layer_has_its_k_weights_after_every_step(
    optimizer, method, sparsity, distribution, inputs, channels
):
    """Also layers too small to hold one weight."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(inputs, channels, 3, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(channels, 3),
    )
    target = Target(sparsity=sparsity, distribution=distribution)
    keeps = target.kept(model)
    if distribution == "uniform":
        sizes = {"0": model[0].weight.numel(), "4": model[4].weight.numel()}
        assert keeps == {name: n - round(n * sparsity) for name, n in sizes.items()}
    found = {}

    def check():
        layers = found["sparsifier"].state_dict()["layers"]
        for weight, name in ((model[0].weight, "0"), (model[4].weight, "4")):
            mask = layers[name]["mask"]
            if method != "gmp":
                assert int(mask.sum()) == keeps[name]
            assert not weight[~mask].any()

    real = Sparsifier.step

    def step(self, at, again):
        found["sparsifier"] = self
        real(self, at, again)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sparsifier, "step", step)
        sparsifier = train(
            model,
            METHODS[method],
            sparsity=sparsity,
            distribution=distribution,
            optimizer=OPTIMIZERS[optimizer](model.parameters()),
            shape=(inputs, 3, 3),
            check=check,
        )
    sparsifier.attach()
    state = model.state_dict()
    for module, name in ((model[0], "0"), (model[4], "4")):
        assert int(module.weight_mask.sum()) == keeps[name]
        assert not state[f"{name}.weight_orig"][state[f"{name}.weight_mask"] == 0].any()


def test_gmp_has_the_count_of_the_schedule_after_every_step():
    model = network()
    counts = []
    train(
        model,
        GradualPruning(update_interval=2, update_stop=0.5),
        sparsity=0.75,
        check=lambda: counts.append(int((model[4].weight != 0).sum())),
    )
    off = [round(144 * (1 - (1 - done / 6) ** 3)) for done in (0, 2, 4, 6)]
    expected = [192 - off[0]] + [192 - off[1]] * 2 + [192 - off[2]] * 2 + [192 - off[3]] * 7
    assert counts == expected


def exploring(regrow):
    """All weights drawn anew at every step but the last."""
    return ReinforcedPruning(
        update_interval=1,
        exploration="constant",
        exploration_start=1.0,
        exploration_stop=1.0,
        exploration_draw="uniform",
        regrow=regrow,
    )


def test_latent_weights_go_on_from_where_they_were_switched_off():
    torch.manual_seed(0)
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
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3, bias=False))
    weight = model[1].weight
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    generator = torch.Generator().manual_seed(0)
    method = exploring("zero")
    target = Target(sparsity=0.5)
    sparsifier = Sparsifier(model, optimizer, method, target, generator=generator)
    x, y = torch.randn(16, 1, 6, 6, generator=generator), torch.arange(16) % 3
    came_back_in_all = 0
    mask = sparsifier.state_dict()["layers"]["1"]["mask"]
    for step in range(20):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        sparsifier.observe(loss.detach(), Position(0, step, 1, 20))
        optimizer.step()
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


def backward(model, generator):
    """Gradients of a new random batch; returns its loss."""
    x, y = torch.randn(16, 1, 6, 6, generator=generator), torch.arange(16) % 3
    loss = nn.functional.cross_entropy(model(x), y)
    model.zero_grad()
    loss.backward()
    return loss


def test_explored_weights_follow_the_gradients_of_the_last_steps():
    """Those of the largest sum, from where plain SGD would have taken them, times the scale."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3, bias=False))
    weight = model[1].weight
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    method = NoisePruning(  # what it exploits is known: the same half of its values every time
        update_interval=6,
        exploration="constant",
        exploration_start=0.5,
        exploration_stop=1.0,
        exploration_steps=4,
        regrow="gradient",
        regrow_scale=0.7,
    )
    sparsifier = Sparsifier(model, optimizer, method, Target(sparsity=0.5), generator=generator)
    layer = sparsifier.state_dict()["layers"]["1"]
    exploited = torch.zeros(108, dtype=torch.bool)
    exploited[layer["measure"].flatten().topk(27).indices] = True
    mask, gradients, came_back_in_all = layer["mask"], [], 0
    for step in range(30):
        loss = backward(model, generator)
        gradients.append(weight.grad.clone())
        at = Position(0, step, 1, 31)
        sparsifier.observe(loss.detach(), at)
        optimizer.step()
        sparsifier.step(at)
        before, mask = mask, sparsifier.state_dict()["layers"]["1"]["mask"]
        if (step + 1) % 6:
            assert torch.equal(mask, before)
            continue
        total = sum(gradients[-4:])
        explored = mask & ~exploited.view_as(mask)
        assert explored.sum() == 27
        assert total[explored].abs().min() > total[~mask].abs().max()
        came_back = mask & ~before
        torch.testing.assert_close(weight[came_back], -0.07 * total[came_back])
        came_back_in_all += int(came_back.sum())
    assert came_back_in_all > 20


def test_rigl_grows_by_the_gradients_of_the_last_steps():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3, bias=False))
    weight = model[1].weight
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(0)
    method = RigLPruning(update_interval=6, update_stop=0.8, drop_fraction=0.5, grow_steps=4)
    sparsifier = Sparsifier(model, optimizer, method, Target(sparsity=0.5), generator=generator)
    gradients, grown_in_all = [], 0
    for step in range(30):
        loss = backward(model, generator)
        gradients.append(weight.grad.clone())
        before = sparsifier.state_dict()["layers"]["1"]["mask"]
        at = Position(0, step, 1, 30)
        sparsifier.observe(loss.detach(), at)
        optimizer.step()
        sparsifier.step(at)
        layer = sparsifier.state_dict()["layers"]["1"]
        if step in (5, 11, 17):  # and none at the stop, which is after step 23
            grown, total = layer["mask"] & ~before, sum(gradients[-4:]).abs()
            assert total[grown].min() > total[~layer["mask"] & ~before].max()
            grown_in_all += int(grown.sum())
        else:
            assert torch.equal(layer["mask"], before)
    assert grown_in_all > 10
    assert layer["window"] is None  # nothing is summed up that nobody will use


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


@pytest.mark.parametrize("method", METHODS)
def test_channels_last(method):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    model = model.to(memory_format=torch.channels_last)
    assert not model[0].weight.is_contiguous()
    sparsifier = train(model, METHODS[method], sparsity=0.5, shape=(3, 6, 6))
    mask = sparsifier.state_dict()["layers"]["0"]["mask"]
    assert mask.sum() == 54
    assert not model[0].weight[~mask].any()


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


def test_a_weight_shared_with_an_embedding_is_masked_in_both():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(3, 8)
            self.out = nn.Linear(8, 3)
            self.out.weight = self.embedding.weight

        def forward(self, x):
            return self.out(self.embedding(x.flatten(1).gt(0).sum(1) % 3))

    model = Tied()
    sparsifier = train(model, RigLPruning(update_interval=2), sparsity=0.5)
    assert model.out.weight is model.embedding.weight
    assert (model.embedding.weight != 0).sum() <= 12
    sparsifier.attach()
    assert model.out.weight_orig is model.embedding.weight


@pytest.mark.parametrize(
    ("first", "shape"),
    [
        (nn.Conv1d(4, 6, 3), (4, 3)),
        (nn.Conv3d(2, 6, 2, bias=False), (2, 2, 2, 2)),
        (nn.Conv2d(4, 6, 3, groups=2), (4, 3, 3)),
        (nn.Conv2d(6, 6, 3, groups=6, bias=False), (6, 3, 3)),
        (nn.ConvTranspose1d(4, 6, 1, bias=False), (4, 1)),
        (nn.ConvTranspose2d(4, 6, 3, padding=1, groups=2), (4, 1, 1)),
        (nn.ConvTranspose3d(2, 6, 1), (2, 1, 1, 1)),
        (nn.Sequential(nn.Flatten(), nn.Linear(4, 6, bias=False)), (4,)),
    ],
    ids=["conv1d", "conv3d", "grouped", "depthwise", "up1d", "up2d, grouped", "up3d", "no bias"],
)
@pytest.mark.parametrize("method", METHODS)
def test_kinds_of_layers(first, shape, method):
    model = nn.Sequential(first, nn.Flatten(), nn.Linear(6, 3, bias=False))
    before = [p.clone() for p in model.parameters()]
    sparsifier = train(model, METHODS[method], sparsity=0.5, shape=shape)
    overall, by_layer = sparsifier.sparsity()
    assert overall == 0.5
    assert len(by_layer) == 2
    assert not any(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_layers_that_are_excluded_stay_dense_and_are_counted():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    target = Target(sparsity=0.5, exclude=("0",))
    generator = torch.Generator().manual_seed(0)
    sparsifier = Sparsifier(model, optimizer, StaticPruning(), target, generator=generator)
    assert sparsifier.sparsity() == (96 / 228, {"0": 0.0, "4": 0.5})
    assert model[0].weight.all()
    sparsifier.attach()
    assert not prune.is_pruned(model[0])


@pytest.mark.parametrize("method", ["latent", "rigl", "saliency"])
def test_a_compiled_model_trains_as_the_plain_one(method):
    results = []
    for wrap in (lambda m: m, lambda m: torch.compile(m, backend="aot_eager")):
        model = wrap(network())
        sparsifier = train(model, METHODS[method])
        assert list(sparsifier.sparsity()[1]) == ["0", "4"]
        weights = torch.cat([p.detach().flatten() for p in model.parameters()])
        sparsifier.attach()
        assert prune.is_pruned(model)
        results.append((weights, model.eval()(torch.ones(2, 1, 6, 6))))
    assert torch.allclose(results[0][0], results[1][0], atol=1e-6)
    assert torch.allclose(results[0][1], results[1][1], atol=1e-6)


class NoRead(TorchDispatchMode):
    """Fails where the host reads a number of a tensor.

    On an accelerator it would have to wait for it; the operators are the same on the CPU.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        aten = torch.ops.aten
        reading = (
            *(aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal),
            *(aten._unique2, aten.repeat_interleave),
        )
        assert func.overloadpacket not in reading, f"{func} reads a tensor"
        # On an accelerator an index of booleans is looked through for its ones; here it is not.
        indexing = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_)
        if func.overloadpacket in indexing:
            assert not any(i is not None and i.dtype == torch.bool for i in args[1]), func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", METHODS)
def test_no_step_waits_for_the_device(method, monkeypatch):
    """Not even a redraw, in the code for accelerators."""

    def read(*_):
        raise AssertionError("the host reads a tensor")

    model = network()
    for name in ("tolist", "numpy", "cpu"):
        monkeypatch.setattr(torch.Tensor, name, read)
    with NoRead():
        for reading in (lambda x: x[x > 0], lambda x: x.unique(), lambda x: x.max().item()):
            with pytest.raises(AssertionError):
                reading(torch.ones(9))
        with pytest.raises(AssertionError, match="reads a tensor"):
            masks.top(torch.ones(9), 3)  # the code for the CPU does read
        monkeypatch.setattr(masks, "_on_host", lambda values: False)
        train(model, METHODS[method])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ReinforcedPruning(credit="globl"), "credit='globl': expected one of global"),
        (lambda: NoisePruning(regrow="grad"), "regrow='grad': expected one of zero"),
        (lambda: RigLPruning(drop_fraction=2), r"drop_fraction=2: expected a number in \[0, 1\]"),
        (lambda: GradualPruning(update_interval=0), "update_interval=0: expected an integer"),
        (lambda: Target(sparsity=90), r"sparsity=90: expected a number in \[0, 1\)"),
        (lambda: Target(sparsity=0.9, distribution="ERK"), "distribution='ERK': expected one of"),
    ],
)
def test_options_that_do_not_exist_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_a_weight_that_the_optimizer_lacks_is_named():
    model, target = network(), Target(sparsity=0.5)
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(InputError, match="layer '4': its weight is not the optimizer's"):
        Sparsifier(model, optimizer, StaticPruning(), target, generator=generator)
    target = Target(sparsity=0.5, exclude=("4",))
    assert Sparsifier(model, optimizer, StaticPruning(), target, generator=generator).masks()


@pytest.mark.parametrize("method", METHODS)
def test_frozen_weights_stay_as_they_are(method):
    """As in the fine-tuning of a head: what would regrow at zero could not train."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 20), nn.ReLU(), nn.Linear(20, 3))
    model[1].weight.requires_grad_(False)
    before = model[1].weight.clone()
    sparsifier = train(model, METHODS[method], sparsity=0.5)
    assert torch.equal(model[1].weight, before)
    assert sparsifier.sparsity() == (30 / 780, {"1": 0.0, "3": 0.5})


@pytest.mark.parametrize("method", METHODS)
def test_layers_that_are_not_used_keep_their_mask(method):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    model.register_module("unused", nn.Linear(12, 12))
    model.forward = lambda x: model[1](model[0](x))
    sparsifier = train(model, METHODS[method], sparsity=0.5)
    assert (model.unused.weight != 0).sum() == 72
    assert sparsifier.sparsity()[0] == 0.5


def tied():
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 6), nn.Linear(6, 6), nn.Linear(6, 6))
    model[3].weight = model[2].weight
    return model


@pytest.mark.parametrize("name", ["2", "3"])
def test_a_shared_weight_goes_by_all_its_names(name):
    model = tied()
    (first,) = Target(sparsity=0.5, exclude=(name,)).kept(model)
    assert first == "1"
    assert list(Target(sparsity=0.5, include=(name,)).kept(model).values()) == [18]
    densities = {name: 0.5, "*": 1.0}
    kept = Target(sparsity=0.5, distribution="map", layer_densities=densities).kept(model)
    assert kept["1"] == round(126 * 216 / (216 + 18))
    twice = nn.Sequential(nn.Flatten(), model[1], model[2], model[2])
    assert list(Target(sparsity=0.5, exclude=("3",)).kept(twice)) == ["1"]


def test_what_cannot_be_pruned_is_left_out():
    model = nn.ModuleDict(
        {
            "plain": nn.Linear(4, 4),
            "lazy": nn.LazyLinear(3),
            "empty": nn.utils.skip_init(nn.Linear, 4, 0),
            "complex": nn.Linear(4, 4, dtype=torch.complex64),
            "recurrent": nn.LSTM(4, 4),
            "embedding": nn.Embedding(4, 4),
            "bilinear": nn.Bilinear(4, 4, 4),
            "normalisation": nn.LayerNorm(4),
        }
    )
    assert list(Target(sparsity=0.5).kept(model).values()) == [8]
    assert list(Target(sparsity=0.5, distribution="erk").kept(model).values()) == [8]


def test_names_in_compiled_models_are_those_of_the_model_inside():
    inner = nn.Sequential(nn.Linear(4, 4))
    inner.add_module("my_orig_mod", nn.Linear(4, 4))
    names = [found.name for found in prunable(torch.compile(inner))]
    assert names == ["0", "my_orig_mod"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_measure_values_of_low_precision_weights_are_exact(dtype):
    """-g * dw against the same in float64: g * w before less g * w after cancels digits."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3, bias=False)).to(dtype)
    method = ReinforcedPruning(
        credit="per_weight",
        attribution="loss_change",
        measure_update="accumulate",
        measure_lr=1.0,
        credit_steps=100,
        update_interval=100,
        exploration_stop=1.0,
    )
    expected = torch.zeros(3, 36, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(1)
    sparsifier = Sparsifier(model, optimizer, method, Target(sparsity=0.5), generator=generator)
    for step in range(20):
        x = torch.randn(16, 36, generator=generator).to(dtype)
        loss = nn.functional.cross_entropy(model(x).float(), torch.arange(16) % 3)
        optimizer.zero_grad()
        loss.backward()
        sparsifier.observe(loss.detach(), Position(0, step, 1, 100))
        before = model[1].weight.detach().double().clone()
        gradient = model[1].weight.grad.double()
        optimizer.step()
        sparsifier.step(Position(0, step, 1, 100))
        expected -= gradient * (model[1].weight.detach().double() - before)
    measure = sparsifier.state_dict()["layers"]["1"]["measure"]
    assert torch.allclose(measure.double(), expected, rtol=1e-3, atol=1e-6)


def test_a_finished_model_can_be_copied():
    model = network()
    train(model, ReinforcedPruning(update_interval=3)).attach()
    twin = copy.deepcopy(model)
    x = torch.randn(2, 1, 6, 6)
    assert torch.equal(model.eval()(x), twin.eval()(x))
    twin.train()(x).sum().backward()  # and trained on
    assert twin[4].weight_orig.grad.any()


@pytest.mark.parametrize("name", ["latent", "regrown"])
def test_a_state_is_copied_and_not_shared(name):
    source = train(network(), METHODS[name], steps=5)  # in the middle of an interval
    state = source.state_dict()
    before = copy.deepcopy(state)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    other = Sparsifier(
        model,
        optimizer,
        METHODS[name],
        Target(sparsity=0.8),
        generator=torch.Generator().manual_seed(9),
    )
    other.load_state_dict(state)
    for step in range(6):
        model(torch.randn(4, 1, 6, 6)).sum().backward()
        other.observe(torch.tensor(1.0 + step), Position(0, step, 1, 100))
        optimizer.step()
        other.step(Position(0, step, 1, 100))
    for layer_name, layer in before["layers"].items():
        for kind, value in layer.items():
            kept = state["layers"][layer_name][kind]
            assert kept is value is None or torch.equal(kept, value)


@pytest.mark.parametrize("other", ["static", "zero"])
def test_a_state_of_another_method_is_refused(other):
    state = train(network(), METHODS[other]).state_dict()
    sparsifier = train(network(), METHODS["latent"])
    with pytest.raises(ValueError, match="layer '0': (latent|measure) is of another method"):
        sparsifier.load_state_dict(state)
    with pytest.raises(ValueError, match="a state of the layers"):
        sparsifier.load_state_dict({"layers": {}, "learner": None})
