"""Named model builders."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from itertools import pairwise
from math import prod

from torch import nn

from rsas.config import TrainConfig
from rsas.errors import InputError
from rsas.userfile import load_function

__all__ = ["build"]


def build(config: TrainConfig, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """The model of a configuration, initialised from torch's default random generator.

    Args:
        config: its ``model`` is ``mlp``, ``resnet18``, ``vgg16``, or ``module:function`` (or
            ``file.py:function``). Such a function is called with those of ``input_shape`` and
            ``num_classes`` that it names as parameters, and returns an ``nn.Module``.
        input_shape: of one input, (C, H, W) for images.
        num_classes: width of the output.

    Raises:
        InputError: there is no such model, or it does not fit the input.
    """
    if ":" in config.model:
        return _build_users(config.model, input_shape, num_classes)
    if config.model == "mlp":
        return _mlp(prod(input_shape), config.hidden, num_classes)
    if config.model in ("resnet18", "vgg16"):
        if len(input_shape) != 3:
            raise InputError(f"model={config.model!r}: needs images (C, H, W), not {input_shape}")
        if config.model == "resnet18":
            return _resnet18(config.stem, input_shape[0], num_classes)
        return _vgg16(input_shape[0], num_classes)
    raise InputError(f"model={config.model!r}: expected mlp, resnet18, vgg16 or module:function")


def _build_users(name: str, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    function = load_function(name, "model")
    offered = {"input_shape": input_shape, "num_classes": num_classes}
    taken = inspect.signature(function).parameters
    try:
        model = function(**{key: value for key, value in offered.items() if key in taken})
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"model={name!r}: calling it failed ({reason})") from error
    if not isinstance(model, nn.Module):
        raise InputError(f"model={name!r}: returned {type(model).__name__}, not an nn.Module")
    return model


def _mlp(inputs: int, hidden: tuple[int, ...], outputs: int) -> nn.Module:
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for number, (wide, narrow) in enumerate(pairwise((inputs, *hidden)), start=1):
        layers[f"fc{number}"] = nn.Linear(wide, narrow)
        layers[f"relu{number}"] = nn.ReLU()
    layers[f"fc{len(hidden) + 1}"] = nn.Linear(hidden[-1] if hidden else inputs, outputs)
    return nn.Sequential(layers)


def _resnet18(stem: str, channels: int, outputs: int) -> nn.Module:
    from torchvision.models import resnet18

    model: nn.Module = resnet18(num_classes=outputs)
    if stem == "small":  # He et al. 2016, section 4.2: a 3x3 convolution and no pooling
        model.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
    elif channels != 3:
        model.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    return model


def _vgg16(channels: int, outputs: int) -> nn.Module:
    from torchvision.models import vgg16

    model: nn.Module = vgg16(num_classes=outputs)
    if channels != 3:
        model.set_submodule("features.0", nn.Conv2d(channels, 64, 3, padding=1))
    return model
