"""Operations by closed forms, layers against dense ones, and times by a clock of our own."""

import dataclasses
import sys

import numpy as np
import pytest
import torch
from torch import nn

from rsas import InputError
from rsas.export import latency as module
from rsas.export import network_of
from rsas.export.flops import Counts, count
from rsas.export.latency import Execution, Report, fits_2_4, interleaved, measure
from rsas.export.sparse_layers import convertible, scipy_csr, torch_csr, with_products


def thinned(model, share=0.9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter *= torch.rand(parameter.shape, generator=generator) > share
    return model.eval().requires_grad_(False)


def test_operations_of_an_mlp():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    with torch.no_grad():
        model[1].weight[:2] = 0
        model[3].weight[:, 1:] = 0
    found = count(model, (3, 4))
    assert found == Counts(
        weights=12 * 5 + 5 * 3,
        nonzeros=12 * 3 + 3,
        flops_dense=2 * (12 * 5 + 5 * 3),
        flops_sparse=2 * (12 * 3 + 3),
    )


def test_operations_of_convolutions():
    """2 x places x kernel x channels in x channels out / groups."""
    conv = nn.Conv2d(6, 9, (3, 2), stride=2, padding=1, groups=3).eval()
    with torch.no_grad():
        conv.weight[:] = 1
        conv.weight[0] = 0  # one of nine
    height, width = (10 + 2 - 3) // 2 + 1, (7 + 2 - 2) // 2 + 1
    dense = 2 * height * width * 3 * 2 * 6 * 9 // 3
    found = count(conv, (6, 10, 7))
    assert (found.flops_dense, found.flops_sparse) == (dense, dense * 8 // 9)
    assert (found.weights, found.nonzeros) == (9 * 2 * 6, 8 * 2 * 6)


def test_operations_of_transposed_convolutions():
    """Each place of the input meets the whole kernel: 2 x places x in x out / groups x kernel."""
    conv = nn.ConvTranspose2d(6, 9, (3, 2), stride=2, groups=3).eval()
    with torch.no_grad():
        conv.weight[:] = 1
        conv.weight[0] = 0  # one of six
    dense = 2 * 5 * 4 * 6 * 3 * 3 * 2
    found = count(conv, (6, 5, 4))
    assert (found.flops_dense, found.flops_sparse) == (dense, dense * 5 // 6)
    assert (found.weights, found.nonzeros) == (6 * 3 * 6, 5 * 3 * 6)


def test_operations_of_attention_with_and_without_fast_path():
    """7 tokens through 4 projections of 16 x 16 and 2 maps of 16 x 32."""
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval()
    with torch.no_grad():
        layer.self_attn.in_proj_weight[16:32] = 0
        layer.self_attn.out_proj.weight[:8] = 0
    dense, off = 4 * 256 + 2 * 512, 256 + 128
    for each in (layer, nn.TransformerEncoderLayer(16, 1, 32, batch_first=True)):
        each.load_state_dict(layer.state_dict())
        found = count(each.eval(), (7, 16))
        assert (found.weights, found.nonzeros) == (dense, dense - off)
        assert (found.flops_dense, found.flops_sparse) == (2 * 7 * dense, 2 * 7 * (dense - off))


def test_operations_of_attention_between_sequences():
    """Keys and values have sizes, and a number of tokens, of their own."""

    class Cross(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True)

        def forward(self, x):
            key, value = x[:, :3, :6], x[:, :3, :4]
            return self.attention(x, value=value, key=key)[0]

    found = count(Cross().eval(), (5, 8))
    assert found.flops_dense == 2 * (5 * 64 + 3 * 48 + 3 * 32 + 5 * 64)


def test_a_layer_that_is_used_twice_counts_twice_but_its_weights_once():
    layer = nn.Linear(4, 4)
    found = count(nn.Sequential(layer, layer).eval(), (4,))
    assert (found.weights, found.flops_dense) == (16, 2 * 2 * 16)


def test_operations_are_of_one_input_and_leave_no_hook():
    model = nn.Linear(4, 3).bfloat16()
    assert count(model, None) == Counts(12, 12, None, None)
    assert count(model, (5, 4)).flops_dense == 5 * 2 * 12
    with pytest.raises(InputError, match=r"input_shape=\(5,\): the model fails"):
        count(model, (5,))
    assert not model._forward_hooks


@pytest.mark.parametrize("product", [torch_csr, scipy_csr])
@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Linear(20, 7), (3, 20)),
        (nn.Linear(20, 7, bias=False), (2, 3, 20)),
        (nn.Conv2d(3, 8, 3, padding=1), (4, 3, 9, 9)),
        (nn.Conv2d(3, 8, (3, 2), stride=(2, 1), padding=(0, 1), dilation=2), (2, 3, 11, 9)),
        (nn.Sequential(nn.Conv2d(2, 4, 1, bias=False), nn.BatchNorm2d(4)), (1, 2, 5, 5)),
        (nn.Conv2d(4, 4, 3, groups=2), (2, 4, 5, 5)),
        (nn.Conv2d(4, 4, 3, padding="same"), (2, 4, 5, 5)),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), (2, 4, 5, 5)),
    ],
)
@pytest.mark.parametrize("columns", [1, 2000, 2**20])
def test_sparse_layers_give_what_dense_ones_give(product, model, shape, columns, monkeypatch):
    monkeypatch.setattr("rsas.export.sparse_layers._COLUMNS", columns)
    model = thinned(model, 0.5)
    sparse = with_products(model, product)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sparse(x), model(x), rtol=1e-5, atol=1e-5)
    changed = [m for m in model.modules() if convertible(m)]
    kept = [m for m in sparse.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert bool(changed) != bool(kept)


def test_calls_take_turns_and_a_drift_hits_all(monkeypatch):
    """A machine that gets slower by the hour; medians keep the true proportion."""
    now, calls = [0.0], []

    def run(name, cost):
        def call(x):
            calls.append(name)
            now[0] += cost * (1 + now[0] / 100)

        return call

    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    found = interleaved({"a": run("a", 1.0), "b": run("b", 2.0)}, torch.zeros(1), 300.0)
    assert found["b"] / found["a"] == pytest.approx(2, rel=0.03)
    assert calls[:2] == ["a", "b"]  # to warm up
    assert calls[2:8] == ["a", "b", "b", "a", "a", "b"]
    assert calls.count("a") == calls.count("b") > 20


def test_few_rounds_of_what_is_slow_and_not_too_many_of_what_is_quick(monkeypatch):
    now, calls = [0.0], []
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])

    def slow(x):
        calls.append("slow")
        now[0] += [100, 5, 1, 2, 3, 4][min(len(calls), 6) - 1]

    assert interleaved({"slow": slow}, torch.zeros(1), 1.0) == {"slow": 3}
    assert len(calls) == 6  # the first one was no part of it
    quick = []
    interleaved({"quick": quick.append}, torch.zeros(1), 1.0)
    assert len(quick) == 201


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr("rsas.export.latency._SECONDS", 0.0)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=2), nn.Flatten(), nn.Linear(24, 5)
    )
    return network_of(thinned(model), (2, 6, 6))


def test_everything_at_hand_is_timed(network, hasty):
    found = measure(network, dense_bytes=100, file_bytes=20)
    names = {each.name: each.is_sparse for each in found.executions}
    assert names == {
        "dense torch": False,
        "torch CSR": True,
        "scipy CSR": True,
        "dense onnxruntime": False,
    }
    assert all(set(each.seconds) == {1, 64} for each in found.executions)
    assert all(0 < seconds < 5 for each in found.executions for seconds in each.seconds.values())
    assert (found.dense_bytes, found.file_bytes, found.threads) == (100, 20, 1)
    told = "\n".join(found.notes)
    assert "2 computed densely" in told
    assert "convolutions by unfolding" in told
    assert "2:4 on GPUs: does not apply to unstructured masks; " in told and " of 1 Linear" in told
    assert len(found.verdicts) == 2


def test_what_gives_something_else_is_left_out(network, hasty, monkeypatch):
    monkeypatch.setattr(module, "torch_csr", lambda weight: torch_csr(1.01 * weight))

    def broken(dense):
        raise MemoryError

    monkeypatch.setattr(module, "scipy_csr", lambda weight: broken)
    monkeypatch.setattr(module.onnx_file, "available", lambda: False)
    found = measure(network, dense_bytes=1, file_bytes=1)
    assert [each.name for each in found.executions] == ["dense torch"]
    told = "\n".join(found.notes)
    assert "torch CSR: left out, its outputs differ by " in told
    assert "scipy CSR: left out, it failed (MemoryError)" in told
    assert "onnxruntime: not installed; pip install 'rsas[export]'" in told
    assert found.verdicts == ["nothing sparse could be timed: no claim of speed"]


def test_what_is_not_there_is_said(network, hasty, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.sparse", None)
    monkeypatch.setattr(module.onnx_file, "available", lambda: False)
    found = measure(network, dense_bytes=1, file_bytes=1)
    assert [each.name for each in found.executions] == ["dense torch", "torch CSR"]
    assert any(note.startswith("scipy CSR: not available here") for note in found.notes)


def test_networks_that_cannot_be_timed():
    model = nn.Linear(4, 3)
    for network, message in (
        (network_of(model), "the shape of an input is not known"),
        (network_of(model.bfloat16(), (4,)), "of float32 networks only"),
    ):
        found = measure(network, dense_bytes=1, file_bytes=1)
        assert found.executions == [] and found.verdicts == []
        assert message in found.notes[0]


def report(**seconds):
    executions = [
        Execution(name.replace("_", " "), name.endswith("CSR"), {1: value})
        for name, value in seconds.items()
    ]
    return Report(Counts(1, 1, 1, 1), 1, 1, 1, executions, [])


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (
            report(dense_torch=2.0, torch_CSR=3.6, scipy_CSR=4.0),
            "at batch 1 the fastest sparse execution (torch CSR) takes 1.80x as long as dense "
            "torch: sparse is slower here",
        ),
        (
            report(dense_torch=2.0, torch_CSR=3.6, scipy_CSR=1.0),
            "at batch 1 the fastest sparse execution (scipy CSR) takes 0.50x as long as dense "
            "torch: sparse is faster here",
        ),
        (
            report(dense_torch=2.0, scipy_CSR=1.0, dense_onnxruntime=0.5),
            "at batch 1 the fastest sparse execution (scipy CSR) takes 0.50x as long as dense "
            "torch, 2.00x as long as the fastest dense (dense onnxruntime): sparse is slower here",
        ),
        (
            report(dense_torch=2.0, scipy_CSR=0.4, dense_onnxruntime=0.5),
            "at batch 1 the fastest sparse execution (scipy CSR) takes 0.20x as long as dense "
            "torch, 0.80x as long as the fastest dense (dense onnxruntime): sparse is faster here",
        ),
    ],
)
def test_verdicts(found, verdict):
    assert found.verdicts == [verdict]
    assert (
        dataclasses.replace(found, executions=found.executions[:1])
        .verdicts[0]
        .startswith("nothing sparse")
    )


def test_two_in_every_four():
    weight = torch.tensor(np.array([[1, 0, 2, 0, 0, 0, 3, 4]], dtype=np.float32))
    assert fits_2_4(weight)
    assert not fits_2_4(weight[:, :6])
    weight[0, 5] = 1
    assert not fits_2_4(weight)
