"""What a run is put together from: device, model and optimizer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rsas import data, models, small_dense
from rsas.config import TrainConfig
from rsas.errors import InputError, reason_of
from rsas.pruning import target_of
from rsas.userfile import users_code

__all__ = ["build_model", "check", "optimizer_of", "resolve_device"]


def check(config: TrainConfig, arrays: data.Arrays) -> None:
    """See that data, model and device fit together, without the cost of a Trainer.

    Raises:
        InputError: they do not.
    """
    device = resolve_device(config.device)
    data.split(arrays, config, torch.device("cpu"))
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        build_model(config, arrays, device)


def resolve_device(name: str) -> torch.device:
    """The device of a name; ``auto`` is cuda where there is one, else cpu.

    Raises:
        InputError: there is no such device on this machine.
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
        have = "cpu" if count == 0 else f"cpu, cuda:0 to cuda:{count - 1}"
        raise InputError(f"device={name!r}: this machine has {have}") from None
    return device


@torch.no_grad()
def build_model(config: TrainConfig, arrays: data.Arrays, device: torch.device) -> nn.Module:
    """The model on its device, after images have passed through it in both its modes.

    Raises:
        InputError: it cannot be made, or does not fit the data.
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
    """Of the output in train mode; statistics of the model and random numbers stay as they are."""
    kept = [buffer.clone() for buffer in model.buffers()]
    with torch.random.fork_rng([inputs.device] if inputs.is_cuda else []):
        shape = tuple(model.train()(inputs).shape)
    for buffer, value in zip(model.buffers(), kept, strict=True):
        buffer.copy_(value)
    return shape


def optimizer_of(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of all parameters of the model."""
    if config.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    return torch.optim.SGD(
        model.parameters(),
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
