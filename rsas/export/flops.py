"""Floating-point operations and weights of a network, counted."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rsas.errors import InputError, first_line
from rsas.sparse import prunable
from rsas.sparse.modules import LAYERS, TRANSPOSED, places

__all__ = ["Counts", "count"]


@dataclass(frozen=True)
class Counts:
    """Of the weights of a network that can be pruned (``rsas.sparse.prunable``)."""

    weights: int
    nonzeros: int
    flops_dense: int | None  # for one input; None where no input shape is known
    flops_sparse: int | None  # the same, weights that are zero left out


@torch.inference_mode()
def count(model: nn.Module, input_shape: tuple[int, ...] | None) -> Counts:
    """Count by a pass of one input of zeros.

    A multiplication and its addition are 2 operations. Counted are the weights of convolutions,
    linear maps and the projections of attention, each as often as it is used. Not counted are
    biases, normalisation, activations, the products of queries, keys and values, and layers whose
    weights a model uses without a call of the layer.

    Args:
        model: in eval mode.
        input_shape: of one input.

    Raises:
        InputError: the model does not take inputs of this shape.
    """
    weights = [found.weight for found in prunable(model)]
    dense = sparse = 0
    if input_shape is None:
        dense_flops = sparse_flops = None
    else:

        def hook(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
        ) -> None:
            nonlocal dense, sparse
            call = inspect.signature(module.forward).bind(*args, **kwargs)
            for weight, times in _uses(module, list(call.arguments.values()), output):
                dense += 2 * times * weight.numel()
                sparse += 2 * times * int(weight.count_nonzero())

        # With a hook on, attention calls its layers one by one also where torch has a fast path.
        counted = (*LAYERS, nn.MultiheadAttention)
        layers = [module for module in model.modules() if isinstance(module, counted)]
        handles = [layer.register_forward_hook(hook, with_kwargs=True) for layer in layers]
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


def _uses(module: nn.Module, inputs: list[Any], output: Any) -> Iterator[tuple[Tensor, int]]:
    """Yield the weights of a layer, and how often a pass multiplied by each number of them."""
    if isinstance(module, nn.MultiheadAttention):
        query, key, value = inputs[:3]
        # The last is of out_proj: there are as many outputs as queries.
        for place, tensor in zip(places(module), (query, key, value, query), strict=False):
            weight: Tensor = getattr(place.module, place.attribute)
            weight = weight if place.rows is None else weight[place.rows]
            yield weight, tensor.numel() // tensor.shape[-1]
    else:
        weight = module.weight  # type: ignore[assignment]
        # Every weight, of any group of channels, is used once for each place of the output; of a
        # transposed convolution, for each place of the input.
        image = inputs[0] if isinstance(module, TRANSPOSED) else output
        yield weight, image.numel() // weight.shape[0]


def _zeros(model: nn.Module, input_shape: tuple[int, ...]) -> Tensor:
    """One input, of the type of the model's weights."""
    kind = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return torch.zeros(1, *input_shape, dtype=kind)
