"""Build the parts of a run: device, model and optimizer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rsas import data, models, small_dense
from rsas.config import TrainConfig
from rsas.errors import InputError, reason_of
from rsas.pruning import target_of
from rsas.userfile import users_code

__all__ = ["build_model", "check", "optimizer_of", "resolve_device"]


def check(config: TrainConfig, arrays: data.Arrays) -> None:
    """Check that data, model and device fit together, without the cost of a Trainer.

    Raises:
        InputError: the parts do not fit together.
    """
    device = resolve_device(config.device)
    data.split(arrays, config, torch.device("cpu"))
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        build_model(config, arrays, device)


def resolve_device(name: str) -> torch.device:
    """Return the device of a name; ``auto`` is cuda if the machine has a GPU, else cpu.

    Raises:
        InputError: this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError
    except (RuntimeError, AssertionError):
        count = torch.cuda.device_count()
        devices = "cpu" if count == 0 else f"cpu, cuda:0 to cuda:{count - 1}"
        raise InputError(f"device={name!r}: this machine has {devices}") from None
    return device


@torch.no_grad()
def build_model(config: TrainConfig, arrays: data.Arrays, device: torch.device) -> nn.Module:
    """Return the model on its device, checked with images in train and eval mode.

    Raises:
        InputError: the model cannot be built, or does not fit the data.
    """
    fault = ""
    try:
        shapes = arrays.input_shape, arrays.num_classes
        width = small_dense.width_of(config, *shapes)
        model = models.build(config, *shapes, width=width).to(device)
        images = torch.tensor(arrays.x_train[: min(2, config.batch_size)], device=device)
        inputs = data.to_input(images, config)
        with users_code():
            shape = tuple(model.eval()(inputs).shape)
            in_training = _shape_in_training(model, inputs)
    except InputError:
        raise
    except Exception as error:
        fault = reason_of(error)
    else:
        if len(shape) != 2 or shape[1] < arrays.num_classes:
            fault = f"its output for {len(images)} inputs has shape {shape}"
        elif in_training != shape:
            fault = f"its output has shape {shape}, but {in_training} in training"
        elif config.method != "dense" and not target_of(config).kept(model):
            fault = f"it has no weight for method {config.method!r} to prune"
        elif not any(parameter.requires_grad for parameter in model.parameters()):
            fault = "it has no parameters to train"
    if fault:
        raise InputError(
            f"model={config.model!r} does not fit {config.dataset!r}, inputs of shape "
            f"{arrays.input_shape} in {arrays.num_classes} classes: {fault}"
        )
    return model


def _shape_in_training(model: nn.Module, inputs: Tensor) -> tuple[int, ...]:
    """Return the shape of the output in train mode; restore buffers and random numbers."""
    before = [buffer.clone() for buffer in model.buffers()]
    with torch.random.fork_rng([inputs.device] if inputs.is_cuda else []):
        shape = tuple(model.train()(inputs).shape)
    for buffer, value in zip(model.buffers(), before, strict=True):
        buffer.copy_(value)
    return shape


def optimizer_of(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer of all parameters of the model."""
    parameters: Any = list(model.parameters())
    if config.decay == "weights":
        parameters = [
            {"params": [p for p in parameters if p.dim() > 1]},
            {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
        ]
    common: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, **common)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **common)
    nesterov = config.nesterov and config.momentum > 0
    return torch.optim.SGD(parameters, momentum=config.momentum, nesterov=nesterov, **common)
