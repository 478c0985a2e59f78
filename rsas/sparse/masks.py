"""Selections of exactly k positions as boolean masks: pure functions of tensors."""

import numpy as np
import torch
from torch import Tensor

__all__ = ["as_int8", "draw", "top", "top_by_position"]


def as_int8(mask: Tensor) -> Tensor:
    """The mask as zeros and ones without a copy.

    Torch multiplies floats by int8 three times as fast as by bool (0.11 and 0.36 ms for 784,000
    weights on one CPU thread), and that product is the price of masking a weight.
    """
    return mask.view(torch.int8)


def draw(available: Tensor, count: int, *, generator: torch.Generator | None = None) -> Tensor:
    """A uniformly random subset of ``count`` of the available positions.

    One number in [0, 1) is drawn for every position, and those with the largest are switched
    off. The published algorithm draws in this way, so with ``available`` all true and torch's
    default generator the masks equal those of ``torch.nn.utils.prune.RandomUnstructured``.

    Args:
        available: boolean, any shape.
        count: 0 to the number of available positions.
        generator: source of randomness on the device of ``available``; None is torch's default.

    Returns:
        Boolean mask of the shape of ``available``.
    """
    off = available.numel() - count
    if off == 0:
        return torch.ones_like(available, memory_format=torch.contiguous_format)
    numbers = torch.rand(available.shape, generator=generator, device=available.device)
    numbers += as_int8(~available)  # in [1, 2): what is not available is switched off first
    return ~top_by_position(numbers, off)


def top(values: Tensor, count: int, *, generator: torch.Generator | None = None) -> Tensor:
    """The positions of the ``count`` largest values; ties at the border are broken at random.

    Global credit gives equal values to all weights with the same history, so ties are the
    rule, and breaking them by position would favour the first rows of a layer.

    Args:
        values: floating point, any shape. NaN counts as larger than all others.
        count: 0 to the number of values.
        generator: as in ``draw``.

    Returns:
        Boolean mask of the shape of ``values`` with exactly ``count`` ones.
    """
    if not _on_host(values):
        return _top_on_device(values, count, generator)
    if count == 0:
        return torch.zeros_like(values, dtype=torch.bool)
    border = _border(values, count)
    mask = values >= border
    surplus = int(mask.count_nonzero()) - count
    if surplus > 0:
        mask &= ~draw(values == border, surplus, generator=generator)
    return mask if surplus >= 0 else top_by_position(values, count)  # fewer: there is NaN


def top_by_position(values: Tensor, count: int) -> Tensor:
    """The positions of the ``count`` largest values, ties as ``torch.topk`` breaks them.

    Deterministic, but among equal values it favours some positions: the published choice.
    """
    if _on_host(values) and count > 0:
        # Where nothing is tied there is one answer, and NumPy finds it in a tenth of the time.
        mask = values >= _border(values, count)
        if int(mask.count_nonzero()) == count:
            return mask
    return _at(torch.topk(values.reshape(-1), count, sorted=False).indices, values.shape)


def _on_host(values: Tensor) -> bool:
    """Whether numbers of the tensor can be read without waiting for a device."""
    return values.device.type == "cpu"


def _at(positions: Tensor, shape: torch.Size) -> Tensor:
    """The mask that is on at these positions of the flattened shape."""
    mask = torch.zeros(shape, dtype=torch.bool, device=positions.device)
    mask.view(-1).scatter_(0, positions, True)
    return mask


def _border(values: Tensor, count: int) -> float:
    """The ``count``-th largest value, of a tensor on the CPU."""
    flat = values.detach().reshape(-1)
    if flat.dtype not in (torch.float32, torch.float64):
        flat = flat.float()  # bfloat16, which NumPy does not have
    rank = len(flat) - count
    return float(np.partition(flat.numpy(), rank)[rank])


def _top_on_device(values: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """``top`` without a number that the host would have to wait for."""
    flat = values.reshape(-1)
    order = torch.randperm(len(flat), generator=generator, device=flat.device)
    return _at(order[torch.topk(flat[order], count, sorted=False).indices], values.shape)
