"""The narrow dense network of equal size: the baseline that a sparse network has to beat."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from rsas import models
from rsas.config import TrainConfig
from rsas.errors import InputError
from rsas.pruning import target_of
from rsas.sparse import Target, prunable

__all__ = ["layer_sizes", "matching_width", "width_of"]


def width_of(config: TrainConfig, input_shape: tuple[int, ...], num_classes: int) -> float:
    """Return the width multiplier of a configuration's model; 1 if its method is another one."""
    if config.method != "small_dense":
        return 1.0
    return matching_width(config, target_of(config), input_shape, num_classes)


def matching_width(
    config: TrainConfig, target: Target, input_shape: tuple[int, ...], num_classes: int
) -> float:
    """Return the width multiplier whose dense model has as many weights as the sparse one keeps.

    The weights that can be pruned are counted. Widths are whole numbers, so the counts can differ,
    by little where layers are wide. No layer gets narrower than 1.

    Args:
        config: names the model.
        target: the sparsity of the model at full width.
        input_shape: of one input.
        num_classes: width of the output.

    Returns:
        In (0, 1].
    """
    full = _meta(config, input_shape, num_classes, 1.0)
    kept = target.kept(full)
    budget = sum(kept.get(name, size) for name, size in _sizes(full).items())
    if budget == _count(full):
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(30):  # counts do not fall with width: halve the interval
        middle = (low + high) / 2
        if _count(_meta(config, input_shape, num_classes, middle)) < budget:
            low = middle
        else:
            high = middle

    def distance(width: float) -> int:
        return abs(_count(_meta(config, input_shape, num_classes, width)) - budget)

    return min((low or high, high), key=distance)


def layer_sizes(
    config: TrainConfig, input_shape: tuple[int, ...], num_classes: int
) -> dict[str, int]:
    """Return the number of weights of each prunable layer of the model at full width."""
    return _sizes(_meta(config, input_shape, num_classes, 1.0))


def _sizes(model: nn.Module) -> dict[str, int]:
    return {found.name: found.weight.numel() for found in prunable(model)}


def _count(model: nn.Module) -> int:
    return sum(_sizes(model).values())


def _meta(
    config: TrainConfig, input_shape: tuple[int, ...], num_classes: int, width: float
) -> nn.Module:
    """Return the model on the meta device, without memory for its weights."""
    with torch.random.fork_rng([]), torch.device("meta"):
        model = models.build(config, input_shape, num_classes, width=width)
    if any(is_lazy(parameter) for parameter in model.parameters()):
        raise InputError(
            f"method='small_dense': model={config.model!r} has lazy layers, whose sizes are not "
            "known before the first batch"
        )
    return model
