"""ONNX files give what torch gives, in onnxruntime, for any batch."""

import copy
import json
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from rsas import InputError, TrainConfig, export, models
from rsas.export import Network, network_of
from rsas.export.onnx_file import check, difference, to_onnx

SHAPES = {"mlp": (1, 8, 8), "resnet18": (3, 16, 16), "vgg16": (3, 32, 32)}


def made(name):
    """A narrow network, half of it pruned, with statistics of BatchNorm and dropout."""
    torch.manual_seed(0)
    config = TrainConfig(model=name, hidden=(30,))
    model = models.build(config, SHAPES[name], 7, width=1.0 if name == "mlp" else 0.1)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            prune.random_unstructured(module, "weight", 0.5)
    model.train()(torch.randn(16, *SHAPES[name]))
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_outputs_in_onnxruntime_are_those_of_torch(name, tmp_path, capfd):
    model = made(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export.save(model, tmp_path / "x.onnx", format="onnx", input_shape=SHAPES[name])
    assert capfd.readouterr() == ("", "")
    onnx.checker.check_model(onnx.load(tmp_path / "x.onnx"), full_check=True)
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx", providers=["CPUExecutionProvider"])
    for batch in (1, 3, 64):
        x = torch.randn(batch, *SHAPES[name])
        (found,) = session.run(["output"], {"input": x.numpy()})
        with torch.no_grad():
            expected = model.eval()(x).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.fixture(scope="module")
def exported():
    config = TrainConfig(hidden=(5,))
    network = Network(models.build(config, (4,), 3), config, (4,), 3, {"trial": "t0007"})
    return network, to_onnx(network)


def test_metadata_says_what_it_is(exported):
    network, content = exported
    proto = onnx.load_from_string(content)
    found = {entry.key: json.loads(entry.value) for entry in proto.metadata_props}
    assert found["rsas.about"] == {"trial": "t0007"}
    assert TrainConfig.from_dict(found["rsas.config"]) == network.config
    sizes = [d.dim_param or d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim]
    assert sizes == ["batch", 4]


def test_outputs_that_differ_are_refused(exported):
    network, content = exported
    model = copy.deepcopy(network.model)
    assert 0 <= check(content, model, (4,)) < 1e-6
    with torch.no_grad():
        model.fc2.weight *= 1.001
        model.fc2.bias *= 1.001
    with pytest.raises(InputError, match="outputs differ from torch's by 1.0e-03 of the largest"):
        check(content, model, (4,))
    with torch.no_grad():
        model.fc2.bias[0] = float("nan")
    with pytest.raises(InputError, match="differ from torch's by nan"):
        check(content, model, (4,))


def test_nothing_is_written_when_outputs_differ(exported, tmp_path, monkeypatch):
    network, content = exported
    model = copy.deepcopy(network.model)
    with torch.no_grad():
        model.fc1.weight[0, 0] += 1  # an exporter that gets a weight wrong
    wrong = SimpleNamespace(model_proto=onnx.load_from_string(content))
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: wrong)
    with pytest.raises(InputError, match="nothing was written"):
        export.save(model, tmp_path / "x", format="onnx", input_shape=(4,))
    assert list(tmp_path.iterdir()) == []


def test_difference_is_a_share_of_the_largest_value():
    ones = np.ones((2, 2), np.float32)
    assert difference(4 * ones, 5 * ones) == pytest.approx(0.2)
    assert difference(ones[:1], ones) == float("inf")
    assert difference(ones * 0, ones * 0) == 0
    assert difference(ones, ones * 0) == 1


class Listing(nn.Module):
    def forward(self, x):
        return x.tolist()


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (nn.Linear(4, 2), None, "needs input_shape="),
        (nn.Linear(4, 2).bfloat16(), (4,), "expected float32 weights, not torch.bfloat16"),
        (nn.Linear(4, 2), (5,), "the model cannot be exported"),
        (Listing(), (5,), "the model cannot be exported"),
    ],
)
def test_models_that_cannot_be_exported(model, shape, message, capfd):
    with pytest.raises(InputError, match=message) as told:
        to_onnx(network_of(model, shape))
    assert "\n" not in str(told.value)
    assert capfd.readouterr() == ("", "")


def test_more_weights_than_a_file_holds():
    with torch.device("meta"):
        model = nn.Linear(2**15, 2**14)
    with pytest.raises(InputError, match="2147549184 bytes of weights; one file holds less"):
        to_onnx(Network(model, input_shape=(2**15,)))


@pytest.mark.parametrize("name", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_extra_is_one_line(name, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=rf"{name} is not installed; pip install 'rsas\[export\]'"):
        export.save(nn.Linear(4, 2), tmp_path / "x", format="onnx", input_shape=(4,))
    assert list(tmp_path.iterdir()) == []
