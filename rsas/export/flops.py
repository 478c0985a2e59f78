"""Floating-point operations and weights of a network, counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rsas.errors import InputError, first_line
from rsas.sparse import prunable
from rsas.sparse.layers import PRUNABLE

__all__ = ["Counts", "count"]


@dataclass(frozen=True)
class Counts:
    """Of the Conv and Linear layers of a network, the ones that can be pruned."""

    weights: int
    nonzeros: int
    flops_dense: int | None  # for one input; None where no input shape is known
    flops_sparse: int | None  # the same, weights that are zero left out


@torch.inference_mode()
def count(model: nn.Module, input_shape: tuple[int, ...] | None) -> Counts:
    """Count by a pass of one input of zeros.

    A multiplication and its addition are 2 operations. Counted are the weights of Conv and Linear
    layers, each as often as it is used; biases, normalisation and activations are not.

    Args:
        model: in eval mode.
        input_shape: of one input.

    Raises:
        InputError: the model does not take inputs of this shape.
    """
    weights = prunable(model)
    dense = sparse = 0
    if input_shape is None:
        dense_flops = sparse_flops = None
    else:

        def hook(module: nn.Module, _: Any, output: Tensor) -> None:
            nonlocal dense, sparse
            weight = module.weight
            assert isinstance(weight, Tensor)
            # Every weight, of any group of channels, is used once for each place of the output.
            places = output.numel() // weight.shape[0]
            dense += 2 * places * weight.numel()
            sparse += 2 * places * int(weight.count_nonzero())

        layers = [module for module in model.modules() if isinstance(module, PRUNABLE)]
        handles = [layer.register_forward_hook(hook) for layer in layers]
        try:
            model(_zeros(model, input_shape))
        except RuntimeError as error:
            reason = first_line(error)
            raise InputError(f"input_shape={input_shape}: the model fails ({reason})") from None
        finally:
            for handle in handles:
                handle.remove()
        dense_flops, sparse_flops = dense, sparse
    return Counts(
        weights=sum(weight.numel() for weight in weights),
        nonzeros=sum(int(weight.count_nonzero()) for weight in weights),
        flops_dense=dense_flops,
        flops_sparse=sparse_flops,
    )


def _zeros(model: nn.Module, input_shape: tuple[int, ...]) -> Tensor:
    """One input, of the type of the model's weights."""
    kind = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return torch.zeros(1, *input_shape, dtype=kind)
