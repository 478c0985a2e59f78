"""Build models by name."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod
from typing import Any

from torch import nn

from rsas.config import TrainConfig
from rsas.errors import InputError, reason_of
from rsas.userfile import load_function, users_code

__all__ = ["build", "build_with"]


def build(
    config: TrainConfig, input_shape: tuple[int, ...], num_classes: int, *, width: float = 1.0
) -> nn.Module:
    """Return the model of a configuration, initialised from torch's default random generator.

    Args:
        config: ``model`` is ``mlp``, ``resnet18``, ``vgg16``, or ``module:function`` (or
            ``file.py:function``). Such a function is called with those of ``input_shape``,
            ``num_classes`` and ``width_multiplier`` that are among its parameters. The function
            returns an ``nn.Module``.
        input_shape: of one input, (C, H, W) for images.
        num_classes: width of the output.
        width: factor of the widths of all hidden layers, above 0; each width stays at least 1.

    Raises:
        InputError: the model does not exist or does not fit the input.
    """
    if ":" in config.model:
        return _build_users(config, input_shape, num_classes, width)
    if config.model == "mlp":
        hidden = [_scaled(size, width) for size in config.hidden]
        return _mlp(prod(input_shape), hidden, num_classes)
    if config.model in ("resnet18", "vgg16"):
        if len(input_shape) != 3:
            raise InputError(f"model={config.model!r}: needs images (C, H, W), not {input_shape}")
        if config.model == "resnet18":
            model = _resnet18(config.stem, input_shape[0], num_classes)
        else:
            model = _vgg16(input_shape[0], num_classes)
        if width != 1.0:
            _narrow(model, width, input_shape[0], num_classes)
        return model
    raise InputError(f"model={config.model!r}: expected mlp, resnet18, vgg16 or module:function")


def _build_users(
    config: TrainConfig, input_shape: tuple[int, ...], num_classes: int, width: float
) -> nn.Module:
    name = config.model
    function = load_function(name, "model")
    parameters = inspect.signature(function).parameters
    if config.method == "small_dense" and "width_multiplier" not in parameters:
        raise InputError(
            f"method='small_dense': model={name!r} has to take width_multiplier, a factor of the "
            "widths of its hidden layers"
        )
    return build_with(function, name, input_shape, num_classes, width=width)


def build_with(
    function: Callable[..., Any],
    name: str,
    input_shape: tuple[int, ...] | None,
    num_classes: int | None,
    *,
    width: float = 1.0,
) -> nn.Module:
    """Return the model that a user's function builds.

    Args:
        function: called with those of ``input_shape``, ``num_classes`` and ``width_multiplier``
            that are among its parameters and that are known.
        name: of the function, for messages.
        input_shape: of one input; None if the shape is not known.
        num_classes: width of the output; None if the number is not known.
        width: factor of the widths of all hidden layers.

    Raises:
        InputError: the function failed, or did not return a model.
    """
    arguments = {
        "input_shape": input_shape,
        "num_classes": num_classes,
        "width_multiplier": width,
    }
    parameters = inspect.signature(function).parameters
    try:
        known = {key: value for key, value in arguments.items() if value is not None}
        with users_code():
            model = function(**{key: value for key, value in known.items() if key in parameters})
    except Exception as error:
        reason = reason_of(error)
        narrow = f" with width_multiplier={width:g}" if width != 1.0 else ""
        message = f"model={name!r}: calling the function{narrow} failed ({reason})"
        raise InputError(message) from error
    if not isinstance(model, nn.Module):
        raise InputError(f"model={name!r}: returned {type(model).__name__}, not an nn.Module")
    return model


def _scaled(size: int, width: float) -> int:
    return max(1, round(size * width))


def _mlp(inputs: int, hidden: Sequence[int], outputs: int) -> nn.Module:
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for number, (before, after) in enumerate(pairwise((inputs, *hidden)), start=1):
        layers[f"fc{number}"] = nn.Linear(before, after)
        layers[f"relu{number}"] = nn.ReLU()
    layers[f"fc{len(hidden) + 1}"] = nn.Linear(hidden[-1] if hidden else inputs, outputs)
    return nn.Sequential(layers)


def _resnet18(stem: str, channels: int, outputs: int) -> nn.Module:
    from torchvision.models import resnet18

    model: nn.Module = resnet18(num_classes=outputs)
    if stem == "small":  # He et al. 2016, section 4.2: a 3x3 convolution and no pooling
        model.conv1 = _initialised(nn.Conv2d(channels, 64, 3, padding=1, bias=False))
        model.maxpool = nn.Identity()
    elif channels != 3:
        model.conv1 = _initialised(nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False))
    return model


def _vgg16(channels: int, outputs: int) -> nn.Module:
    from torchvision.models import vgg16

    model: nn.Module = vgg16(num_classes=outputs)
    if channels != 3:
        model.set_submodule("features.0", _initialised(nn.Conv2d(channels, 64, 3, padding=1)))
    return model


def _initialised(conv: nn.Conv2d) -> nn.Conv2d:
    """Initialise a convolution as torchvision does in its ResNet and VGG, and return it."""
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def _narrow(model: nn.Module, width: float, channels: int, outputs: int) -> None:
    """Replace the layers of torchvision's ResNet or VGG by narrower ones.

    The new layers are initialised as torchvision does.
    """
    last = 0  # output channels of the layer before, at full width
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for name, wide in list(model.named_modules()):
        if isinstance(wide, nn.Conv2d):
            conv = nn.Conv2d(
                channels if last == 0 else _scaled(wide.in_channels, width),
                _scaled(wide.out_channels, width),
                wide.kernel_size,  # type: ignore[arg-type]
                wide.stride,  # type: ignore[arg-type]
                wide.padding,  # type: ignore[arg-type]
                bias=wide.bias is not None,
            )
            model.set_submodule(name, _initialised(conv))
            last = wide.out_channels
        elif isinstance(wide, nn.BatchNorm2d):
            model.set_submodule(name, nn.BatchNorm2d(_scaled(wide.num_features, width)))
        elif isinstance(wide, nn.Linear):
            pixels = wide.in_features // last
            narrow = outputs if name == linears[-1] else _scaled(wide.out_features, width)
            linear = nn.Linear(_scaled(last, width) * pixels, narrow)
            if len(linears) > 1:  # VGG
                nn.init.normal_(linear.weight, 0, 0.01)
                nn.init.zeros_(linear.bias)
            model.set_submodule(name, linear)
            last = wide.out_features
