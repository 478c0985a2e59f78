"""Sparsity of a network -> how many weights each layer keeps."""

import math

__all__ = ["kept", "kept_published"]


def kept(numel: int, sparsity: float) -> int:
    """Weights that stay on: numel * (1 - sparsity), rounded to the nearest integer."""
    return numel - round(numel * sparsity)


def kept_published(numel: int, sparsity: float) -> int:
    """The published count, floor(numel * (1 - sparsity)) in floating point.

    It can be one less than ``kept``: for 100 weights at 0.9 it is 9, as 1 - 0.9 < 0.1.
    """
    return math.floor(numel * (1 - sparsity))
