"""Named models and the user's own."""

import pytest
import torch

from rsas import InputError, TrainConfig
from rsas.models import build


@pytest.mark.parametrize(
    ("hidden", "count"),
    [((1000,), 784 * 1000 + 1000 + 1000 * 10 + 10), ((), 784 * 10 + 10), ((30, 20), 24380)],
)
def test_mlp_has_the_widths_asked_for(hidden, count):
    model = build(TrainConfig(hidden=hidden), (1, 28, 28), 10)
    assert sum(p.numel() for p in model.parameters()) == count
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_resnet18_equals_torchvisions():
    from torchvision.models import resnet18

    torch.manual_seed(0)
    model = build(TrainConfig(model="resnet18"), (3, 224, 224), 7)
    torch.manual_seed(0)
    for ours, theirs in zip(
        model.state_dict().values(), resnet18(num_classes=7).state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_small_stem_keeps_the_resolution():
    model = build(TrainConfig(model="resnet18", stem="small"), (3, 32, 32), 10)
    sizes = {}
    model.layer1.register_forward_hook(lambda _m, _i, out: sizes.update(layer1=out.shape))
    assert model.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert sizes["layer1"] == (1, 64, 32, 32)
    assert model.conv1.kernel_size == (3, 3)


@pytest.mark.parametrize(("name", "size"), [("resnet18", 28), ("vgg16", 32)])
def test_gray_images(name, size):
    model = build(TrainConfig(model=name), (1, size, size), 10)
    assert model.eval()(torch.zeros(1, 1, size, size)).shape == (1, 10)


OWN = """
from torch import nn

def plain():
    return nn.Linear(4, 3)

def shaped(num_classes, input_shape):
    return nn.Linear(input_shape[0], num_classes)

def wrong():
    return "a model"

def broken():
    raise KeyError("no weights")

def scalable(width_multiplier):
    return nn.Sequential(nn.Linear(4, round(100 * width_multiplier)), nn.ReLU())
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_models.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [])


def test_own_file_may_hold_dataclasses(tmp_path):
    (tmp_path / "classes.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from torch import nn\n"
        "@dataclass\n"
        "class Size:\n    width: int = 6\n"
        "def net():\n    return nn.Linear(Size().width, 3)\n"
    )
    assert build(TrainConfig(model=f"{tmp_path / 'classes.py'}:net"), (6,), 3).in_features == 6


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("place", ["own_models", "own_models.py"])
def test_own_function_gets_what_it_names(place, monkeypatch):
    import sys

    monkeypatch.delitem(sys.modules, "own_models", raising=False)
    assert build(TrainConfig(model=f"{place}:plain"), (9,), 5).in_features == 4
    model = build(TrainConfig(model=f"{place}:shaped"), (9,), 5)
    assert (model.in_features, model.out_features) == (9, 5)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_models.py:nothing", "'own_models.py' has no function 'nothing'"),
        ("own_models.py:wrong", "returned str, not an nn.Module"),
        ("own_models.py:broken", r"calling the function failed \(KeyError: 'no weights'\)"),
        ("missing.py:net", "there is no file 'missing.py'"),
        ("missing_module:net", "cannot import 'missing_module'"),
        ("vgg99", "expected mlp, resnet18, vgg16 or module:function"),
    ],
)
def test_own_function_that_cannot_be_used(name, message):
    with pytest.raises(InputError, match=message):
        build(TrainConfig(model=name), (4,), 3)


def test_convolutions_need_images():
    with pytest.raises(InputError, match=r"model='vgg16': needs images"):
        build(TrainConfig(model="vgg16"), (64,), 10)


@pytest.mark.usefixtures("own")
def test_own_function_may_take_a_width_multiplier():
    config = TrainConfig(model="own_models.py:scalable", method="small_dense")
    assert build(config, (4,), 3, width=0.2)[0].out_features == 20
    assert build(config, (4,), 3)[0].out_features == 100
    with pytest.raises(InputError, match="'own_models.py:plain' has to take width_multiplier"):
        build(config.replace(model="own_models.py:plain"), (4,), 3)


@pytest.mark.parametrize(
    ("name", "stem", "shape"),
    [
        ("resnet18", "imagenet", (3, 64, 64)),
        ("resnet18", "small", (1, 32, 32)),
        ("vgg16", "imagenet", (1, 32, 32)),
    ],
)
def test_narrow_networks_have_all_widths_scaled(name, stem, shape):
    from torch import nn

    config = TrainConfig(model=name, stem=stem)
    with torch.device("meta"):
        wide, narrow = build(config, shape, 10), build(config, shape, 10, width=0.25)
    assert narrow(torch.zeros(2, *shape, device="meta")).shape == (2, 10)
    pairs = list(zip(wide.modules(), narrow.modules(), strict=True))
    channels = [(a.out_channels, b.out_channels) for a, b in pairs if isinstance(a, nn.Conv2d)]
    assert len(channels) >= 13
    assert all(a == 4 * b for a, b in channels)


def test_narrow_networks_are_initialised_as_wide_ones():
    """The deviation of a layer's weights follows torchvision's rule at the new width."""
    torch.manual_seed(0)
    model = build(TrainConfig(model="resnet18"), (3, 64, 64), 10, width=0.5)
    weight = model.layer3[0].conv2.weight  # 128 channels out, 3x3, kaiming fan out
    assert weight.shape == (128, 128, 3, 3)
    assert weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.01)
    torch.manual_seed(0)
    model = build(TrainConfig(model="vgg16"), (3, 32, 32), 10, width=0.125)
    assert model.classifier[3].weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert not model.features[0].bias.any()
