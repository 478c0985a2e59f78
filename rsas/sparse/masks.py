"""Selections of exactly k positions as boolean masks: pure functions of tensors."""

import torch
from torch import Tensor

__all__ = ["draw", "top", "top_by_position"]


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
        Boolean mask of the shape of ``available``. O(n log n) time for n positions.
    """
    off = available.numel() - count
    mask = torch.ones_like(available, memory_format=torch.contiguous_format)
    if off:
        # Above every draw: what is not available is switched off first.
        numbers = torch.rand(available.shape, generator=generator, device=available.device)
        numbers.masked_fill_(~available, 2.0)
        mask.view(-1)[torch.topk(numbers.view(-1), off, sorted=False).indices] = False
    return mask


def top(values: Tensor, count: int, *, generator: torch.Generator | None = None) -> Tensor:
    """The positions of the ``count`` largest values; ties at the border are broken at random.

    Global credit gives equal values to all weights with the same history, so ties are the
    rule, and breaking them by position would favour the first rows of a layer.

    Args:
        values: floating point, any shape, without NaN.
        count: 0 to the number of values.
        generator: as in ``draw``.

    Returns:
        Boolean mask of the shape of ``values`` with exactly ``count`` ones.
    """
    if count == 0:
        return torch.zeros_like(values, dtype=torch.bool)
    n = values.numel()
    border = torch.kthvalue(values.reshape(-1), n - count + 1).values
    above = values > border
    return above | draw(values == border, count - int(above.sum()), generator=generator)


def top_by_position(values: Tensor, count: int) -> Tensor:
    """The positions of the ``count`` largest values, ties as ``torch.topk`` breaks them.

    Deterministic, but among equal values it favours some positions: the published choice.
    """
    mask = torch.zeros(values.shape, dtype=torch.bool, device=values.device)
    mask.view(-1)[torch.topk(values.reshape(-1), count, sorted=False).indices] = True
    return mask
