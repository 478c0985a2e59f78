"""Count the floating-point operations and the weights of a network.

``torch.utils.flop_counter`` cannot replace the hooks below. It does not see which weights are zero.
It counts 0 operations in the fast path of attention. Between sequences of different lengths, it
mixes the projections with the products of queries, keys and values.
"""

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
    """Counts over the prunable weights of a network (``rsas.sparse.prunable``).

    Attributes:
        weights: number of weights.
        nonzeros: number of weights that are not zero.
        flops_dense: operations for one input; None if the input shape is unknown.
        flops_sparse: the operations without those of weights that are zero.
    """

    weights: int
    nonzeros: int
    flops_dense: int | None
    flops_sparse: int | None


@torch.inference_mode()
def count(model: nn.Module, input_shape: tuple[int, ...] | None) -> Counts:
    """Count by a forward pass of one input of zeros.

    A multiplication and its addition are 2 operations. The count covers the weights of
    convolutions, linear maps and the projections of attention, each as often as it is used. It
    leaves out biases, normalisation, activations, the products of queries, keys and values, and
    layers whose weights a model uses without a call of the layer.

    Args:
        model: in eval mode.
        input_shape: shape of one input; with None, only weights are counted.

    Raises:
        InputError: the model does not take inputs of this shape.
    """
    weights = [layer.weight for layer in prunable(model)]
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

        # A hook also disables torch's fast path of attention, which calls no layer.
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
    """Yield the weights of a layer, and how often the pass multiplied by each element."""
    if isinstance(module, nn.MultiheadAttention):
        query, key, value = inputs[:3]
        # out_proj comes last: it has as many inputs as there are queries.
        for place, tensor in zip(places(module), (query, key, value, query), strict=False):
            weight: Tensor = getattr(place.module, place.attribute)
            weight = weight if place.rows is None else weight[place.rows]
            yield weight, tensor.numel() // tensor.shape[-1]
    else:
        weight = module.weight  # type: ignore[assignment]
        # Each weight is used once for each place of the output, whatever its group of channels.
        # A transposed convolution uses each weight once for each place of the input.
        image = inputs[0] if isinstance(module, TRANSPOSED) else output
        yield weight, image.numel() // weight.shape[0]


def _zeros(model: nn.Module, input_shape: tuple[int, ...]) -> Tensor:
    """Return one input of zeros, in the dtype of the model's weights."""
    kind = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return torch.zeros(1, *input_shape, dtype=kind)
