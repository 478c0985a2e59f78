"""Attention: all its weights are masked and counted, on every path that torch computes it by."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from rsas.errors import InputError
from rsas.export import network_of
from rsas.sparse import (
    GradualPruning,
    Position,
    ReinforcedPruning,
    RigLPruning,
    Sparsifier,
    StaticPruning,
    Target,
)
from rsas.sparse.distributions import erdos_renyi_kernel, share_out

METHODS = {
    "static": StaticPruning(),
    "rigl": RigLPruning(update_interval=3),
    "gmp": GradualPruning(update_interval=3),
    "reinforced": ReinforcedPruning(update_interval=3),
    "latent": ReinforcedPruning(update_interval=3, credit="global", regrow="latent"),
}


def encoder_layer():
    torch.manual_seed(0)
    return nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)


def matrices(model):
    """All weights of two dimensions, under whatever name: normalisation and biases have one."""
    return [parameter for parameter in model.parameters() if parameter.ndim == 2]


def sparsifier_of(model, method, **target):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(1)
    target = Target(**({"sparsity": 0.8} | target))
    return optimizer, Sparsifier(model, optimizer, method, target, generator=generator)


def train(model, method, inputs=None, steps=8, **target):
    optimizer, sparsifier = sparsifier_of(model, method, **target)
    generator = torch.Generator().manual_seed(2)
    inputs = inputs or [torch.randn(4, 5, 16, generator=generator)]
    for step in range(steps):
        at = Position(0, step, 1, steps)
        output = model(*inputs)
        output = output[0] if isinstance(output, tuple) else output
        loss = (output - 0.3 * inputs[0].roll(1, 0)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        sparsifier.observe(loss, at)
        optimizer.step()
        sparsifier.step(at)
    return sparsifier


@pytest.mark.parametrize("method", METHODS)
def test_sparsity_is_that_of_all_weights(method):
    model = encoder_layer()
    sparsifier = train(model, METHODS[method])
    overall, by_layer = sparsifier.sparsity()
    off = sum(int((~mask).sum()) for mask in sparsifier.masks())
    total = sum(weight.numel() for weight in matrices(model))
    assert total == 16 * (3 * 16 + 16 + 32 + 32)
    assert overall == off / total == pytest.approx(0.8, abs=1e-3)
    zeros = sum(int((weight == 0).sum()) for weight in matrices(model))
    if method in ("static", "gmp"):  # with the others, a weight that is on may be zero
        assert zeros == off
    assert zeros >= off
    for number, name in enumerate(("q_proj", "k_proj", "v_proj")):
        block = model.self_attn.in_proj_weight[16 * number : 16 * number + 16]
        assert by_layer[f"self_attn.{name}"] == 205 / 256  # each has its own budget
        assert int((block == 0).sum()) >= 205


def test_weights_of_attention_move_and_come_back():
    """Redraws, optimizer's memory and gradients are those of the rows of each block."""
    model = encoder_layer()
    optimizer, sparsifier = sparsifier_of(model, RigLPruning(update_interval=1, drop_fraction=0.5))
    weight = model.self_attn.in_proj_weight
    x = torch.randn(4, 5, 16, generator=torch.Generator().manual_seed(2))
    before = torch.cat(sparsifier.masks()[:3])
    for step in range(2):
        optimizer.zero_grad()
        loss = model(x).square().mean() + model(x)[..., 0].mean()
        loss.backward()
        sparsifier.observe(loss, Position(0, step, 1, 100))
        optimizer.step()
        memory = optimizer.state[weight]["exp_avg"].clone()
        sparsifier.step(Position(0, step, 1, 100))
        mask = torch.cat(sparsifier.masks()[:3])
        grown = mask & ~before
        for number in range(3):
            rows = slice(16 * number, 16 * number + 16)
            available = ~before[rows] & ~mask[rows]
            gradient = weight.grad[rows].abs()
            assert gradient[grown[rows]].min() >= gradient[available].max()
        assert memory[grown].any()
        expected = torch.where(grown, 0, memory)
        assert torch.equal(optimizer.state[weight]["exp_avg"], expected)
        before = mask


def test_budgets_of_erk_are_those_of_the_blocks():
    sizes = {f"self_attn.{name}_proj": (16, 16) for name in ("q", "k", "v", "out")}
    sizes |= {"linear1": (32, 16), "linear2": (16, 32)}
    expected = share_out(
        {name: shape[0] * shape[1] for name, shape in sizes.items()},
        {name: erdos_renyi_kernel(shape) for name, shape in sizes.items()},
        410,
    )
    target = Target(sparsity=1 - 410 / 2048, distribution="erk")
    assert target.kept(encoder_layer()) == expected


@pytest.mark.parametrize("sizes", [{}, {"kdim": 12, "vdim": 8}], ids=["one size", "three sizes"])
def test_names_are_the_same_whatever_parameters_torch_has(sizes):
    attention = nn.MultiheadAttention(16, 4, **sizes)
    kept = Target(sparsity=0.5, exclude=("k_proj",)).kept(attention)
    value = sizes.get("vdim", 16)
    assert kept == {"q_proj": 128, "v_proj": 8 * value, "out_proj": 128}


def test_what_is_excluded_stays_dense():
    model = encoder_layer()
    sparsifier = train(model, StaticPruning(), exclude=("*.k_proj",))
    query, key, value = model.self_attn.in_proj_weight.chunk(3)
    assert key.all() and not query.all() and not value.all()
    sparsifier.attach()
    assert model.self_attn.in_proj_weight_mask.sum() == 256 + 2 * 51


def cross():
    torch.manual_seed(0)
    return nn.MultiheadAttention(16, 4, kdim=12, vdim=8, batch_first=True)


@pytest.mark.parametrize("no_grad", [True, False], ids=["fast path", "with gradients"])
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("method", ["static", "reinforced"])
def test_attached_and_exported_models_give_what_the_masked_one_gives(method, mode, no_grad):
    model = encoder_layer()
    sparsifier = train(model, METHODS[method])
    x = torch.randn(2, 5, 16)
    masked = copy.deepcopy(model)
    sparsifier.attach()
    exported = network_of(model).model
    assert not any(m._forward_pre_hooks for m in exported.modules())  # so it has the fast path
    with torch.set_grad_enabled(not no_grad):
        expected = getattr(masked, mode)()(x)
        for other in (model, copy.deepcopy(model), exported):
            torch.testing.assert_close(getattr(other, mode)()(x), expected, rtol=1e-5, atol=1e-6)
    assert exported.state_dict().keys() == masked.state_dict().keys()
    for name, value in exported.state_dict().items():
        assert torch.equal(value, masked.state_dict()[name])


@pytest.mark.parametrize("make", [encoder_layer, cross])
def test_an_attached_model_can_be_trained_loaded_and_copied(make):
    """Its weights follow ``weight_orig``, also that of out_proj, which is not called."""
    model = make()
    inputs = [torch.randn(4, 5, size) for size in ((16, 12, 8) if make is cross else (16,))]
    train(model, StaticPruning(), inputs).attach()
    attention = getattr(model, "self_attn", model)
    model = copy.deepcopy(model)
    attention = getattr(model, "self_attn", model)
    before = attention.out_proj.weight_orig.clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    output = model(*inputs)
    (output[0] if isinstance(output, tuple) else output).square().sum().backward()
    optimizer.step()
    assert not torch.equal(attention.out_proj.weight_orig, before)
    with torch.no_grad():
        model.eval()(*inputs)
    masked = attention.out_proj.weight_orig * attention.out_proj.weight_mask
    assert torch.equal(attention.out_proj.weight, masked)
    for name in ("in_proj_weight",) if make is encoder_layer else ("q_proj_weight",):
        orig, mask = getattr(attention, f"{name}_orig"), getattr(attention, f"{name}_mask")
        assert torch.equal(getattr(attention, name), orig * mask)
        assert (mask == 0).any() and orig.grad[mask != 0].any()
    file = io.BytesIO()
    torch.save(copy.deepcopy(network_of(model).model), file)
    assert b"rsas" not in file.getvalue()  # the exported module needs torch only


def test_an_encoder_with_padding_takes_nested_tensors():
    """``TransformerEncoder`` makes them of padded inputs where it has its fast path."""
    torch.manual_seed(0)
    model = nn.TransformerEncoder(encoder_layer(), 2)
    sparsifier = train(model, StaticPruning())
    masked = copy.deepcopy(model)
    sparsifier.attach()
    x, padding = torch.randn(2, 5, 16), torch.zeros(2, 5, dtype=torch.bool)
    padding[0, 3:] = True
    with torch.no_grad():
        expected = masked.eval()(x, src_key_padding_mask=padding)
        exported = network_of(model).model(x, src_key_padding_mask=padding)
        attached = model.eval()(x, src_key_padding_mask=padding)
    torch.testing.assert_close(attached[~padding], expected[~padding], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(exported[~padding], expected[~padding], rtol=1e-5, atol=1e-6)


def test_attention_that_is_pruned_already_is_refused():
    model = encoder_layer()
    prune.random_unstructured(model.self_attn, "in_proj_weight", 0.5)
    with pytest.raises(InputError, match="layer 'self_attn.q_proj' is computed"):
        Target(sparsity=0.5).kept(model)
    assert "linear1" in Target(sparsity=0.5, exclude=("*.?_proj",)).kept(model)


def test_a_state_goes_on():
    first, second = encoder_layer(), encoder_layer()
    sparsifier = train(first, METHODS["latent"])
    _, other = sparsifier_of(second, METHODS["latent"])
    other.load_state_dict(copy.deepcopy(sparsifier.state_dict()))
    second.load_state_dict(first.state_dict())
    assert other.sparsity() == sparsifier.sparsity()
    assert list(other.state_dict()["layers"])[:4] == [
        f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")
    ]
