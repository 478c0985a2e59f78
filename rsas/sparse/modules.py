"""The modules of a model, and where the weights are that each of them multiplies by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.utils.prune import BasePruningMethod
from torch.optim.swa_utils import AveragedModel

__all__ = ["LAYERS", "TRANSPOSED", "Place", "follow", "inner", "places", "pruners", "unfollow"]

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)
"""Modules with one weight, ``weight``. The other kind is ``nn.MultiheadAttention``."""

_WRAPPERS = (nn.parallel.DistributedDataParallel, nn.DataParallel, AveragedModel)


@dataclass(frozen=True)
class Place:
    """Where a weight is: a parameter of a module, or rows of the parameter.

    Attributes:
        name: of the layer, such as ``features.0`` or ``encoder.self_attn.q_proj``.
        module: the owner of the parameter.
        attribute: name of the parameter in the module.
        rows: of the parameter; None for all of them.
    """

    name: str
    module: nn.Module
    attribute: str
    rows: slice | None = None

    @property
    def is_computed(self) -> bool:
        """Say whether the weight is computed from other parameters, as by weight_norm."""
        return self.attribute not in self.module._parameters


def inner(model: nn.Module) -> nn.Module:
    """Return the model inside ``torch.compile``, data parallelism and ``AveragedModel``."""
    compiled = getattr(model, "_orig_mod", None)
    if isinstance(compiled, nn.Module):
        return inner(compiled)
    return inner(model.module) if isinstance(model, _WRAPPERS) else model


def places(model: nn.Module, name: str = "") -> Iterator[Place]:
    """Yield the weights of a model; one that several modules share has several places.

    Names are those of the model inside wrappers (``inner``), at any depth. The projections of
    ``nn.MultiheadAttention`` are ``q_proj``, ``k_proj``, ``v_proj`` and ``out_proj``.
    """
    model = inner(model)
    if isinstance(model, LAYERS):
        yield Place(name, model, "weight")
    elif isinstance(model, nn.MultiheadAttention):
        yield from _projections(model, name)
    for child, module in model._modules.items():
        if module is not None:
            yield from places(module, _join(name, child))


def _projections(attention: nn.MultiheadAttention, name: str) -> Iterator[Place]:
    """Yield the weights for queries, keys and values, which may be rows of one parameter."""
    size = attention.embed_dim
    # The one parameter, or the three, are None; they are not there if they are computed.
    if attention._parameters.get("in_proj_weight", attention) is not None:
        for number, each in enumerate(("q_proj", "k_proj", "v_proj")):
            rows = slice(number * size, (number + 1) * size)
            yield Place(_join(name, each), attention, "in_proj_weight", rows)
    else:
        for each in ("q_proj", "k_proj", "v_proj"):
            yield Place(_join(name, each), attention, f"{each}_weight")


def _join(name: str, child: str) -> str:
    return f"{name}.{child}" if name else child


def pruners(module: nn.Module) -> list[Any]:
    """Return the masks of ``torch.nn.utils.prune`` on a module."""
    hooks = list(module._forward_pre_hooks.values())
    return [hook for hook in hooks if isinstance(hook, BasePruningMethod)]


def follow(attention: nn.MultiheadAttention) -> None:
    """Let the weight of ``out_proj`` follow its mask of ``torch.nn.utils.prune``.

    ``prune`` computes a weight when its layer is called, and attention reads the weight of
    ``out_proj`` without a call.
    """
    attention.register_forward_pre_hook(_mask_output)


def unfollow(attention: nn.MultiheadAttention) -> None:
    """Undo ``follow``, after ``prune.remove``."""
    hooks = attention._forward_pre_hooks
    for number in [number for number, hook in hooks.items() if hook is _mask_output]:
        del hooks[number]


def _mask_output(attention: nn.Module, inputs: tuple[Any, ...]) -> None:
    out_proj = attention.out_proj
    assert isinstance(out_proj, nn.Module)
    for hook in pruners(out_proj):
        hook(out_proj, ())
