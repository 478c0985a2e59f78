"""Sparsity of a whole network -> how many weights each layer keeps."""

import math
from collections.abc import Hashable, Mapping
from typing import TypeVar

__all__ = ["erdos_renyi_kernel", "kept", "kept_published", "share_out"]

_Layer = TypeVar("_Layer", bound=Hashable)


def kept(numel: int, sparsity: float) -> int:
    """Return the weights that stay on: numel * (1 - sparsity), rounded to the nearest integer."""
    return numel - round(numel * sparsity)


def kept_published(numel: int, sparsity: float) -> int:
    """Return the published count, floor(numel * (1 - sparsity)) in floating point.

    It can be one less than ``kept``: for 100 weights at 0.9 it is 9, as 1 - 0.9 < 0.1.
    """
    return math.floor(numel * (1 - sparsity))


def erdos_renyi_kernel(shape: tuple[int, ...]) -> float:
    """Return the relative density of a weight of this shape (Evci et al. 2020, RigL, section 3).

    (n_in + n_out + width + height) / (n_in * n_out * width * height): wide layers are the
    sparsest, and the number of weights grows with the sum of the dimensions, not the product.
    """
    return sum(shape) / math.prod(shape)


def share_out(
    sizes: Mapping[_Layer, int], densities: Mapping[_Layer, float], budget: int
) -> dict[_Layer, int]:
    """Divide a budget of weights among layers in proportion to relative densities.

    A layer keeps size * min(1, c * density), with the c for which all keep ``budget``; what is
    cut off at 1 goes to the others. Remainders are rounded by the largest remainder, so the
    counts sum to the budget exactly.

    Args:
        sizes: weights of each layer.
        densities: relative density of each layer, above 0; only their ratios matter.
        budget: 0 to the sum of the sizes.
    """
    largest = max(densities.values(), default=1.0)  # so that tiny and huge ones do not overflow
    densities = {name: density / largest for name, density in densities.items()}
    full: set[_Layer] = set()
    scale = 0.0
    while len(full) < len(sizes):
        rest = {name: sizes[name] * densities[name] for name in sizes if name not in full}
        scale = (budget - sum(sizes[name] for name in full)) / sum(rest.values())
        over = {name for name in rest if scale * densities[name] > 1}
        if not over:
            break
        full |= over
    exact = {
        name: float(size) if name in full else min(size, scale * size * densities[name])
        for name, size in sizes.items()
    }
    counts = {name: math.floor(value) for name, value in exact.items()}
    by_remainder = sorted(sizes, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: budget - sum(counts.values())]:
        counts[name] += 1
    return counts
