"""Puts masks on a model's weights and keeps them true while an optimizer moves the weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from rsas.errors import InputError
from rsas.sparse.layers import Layer, Target, prunable
from rsas.sparse.masks import as_int8
from rsas.sparse.measure import Learner
from rsas.sparse.methods import Position, PruningMethod
from rsas.sparse.modules import follow

__all__ = ["Sparsifier"]


class Sparsifier:
    """Masks on the weights of a model, and the method that redraws them.

    The weights themselves are kept masked, in place, so the forward and backward passes are
    those of the plain model, and gradients are dense. Call ``observe`` between the backward pass
    and the optimizer's step, with gradients that are not scaled any more (``scaler.unscale_``,
    where there is a GradScaler), and ``step`` after it. With ``method`` None the model stays dense
    and both do nothing.

    Args:
        model: moved to its device already; initial masks are put on at once. It may be wrapped
            by ``torch.compile``.
        optimizer: of all weights that are pruned; its state is zeroed for those that come back on.
        method: the pruning method, or None.
        target: the sparsity, and of which layers.
        generator: source of all draws, on the device of the model. Its seed must not be that of
            the initialisation, or masks and weights are made of the same random numbers.

    Raises:
        InputError: the target does not fit the model, or the optimizer lacks a weight.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        method: PruningMethod | None,
        target: Target,
        *,
        generator: torch.Generator,
    ) -> None:
        self._optimizer = optimizer
        self._method = method
        self._generator = generator
        self._model = model
        self._prunable = prunable(model)
        self._layers: list[Layer] = []
        self._learner: Learner | None = None
        self._explored: list[float] = []  # by the redraws of this epoch
        if method is None:
            return
        moved = {id(p) for group in optimizer.param_groups for p in group["params"]}
        kept = target.kept(model)
        with torch.no_grad():
            for found in self._prunable:
                if found.name not in kept:
                    continue
                if id(found.parameter) not in moved:
                    raise InputError(
                        f"layer {found.name!r}: its weight is not the optimizer's; name it in "
                        "exclude"
                    )
                planned, weight = kept[found.name], found.weight
                mask = method.first_mask(weight, planned, generator)
                latent = None
                if method.keeps_latent:
                    latent = weight * as_int8(~mask)
                layer = Layer(
                    found,
                    mask=mask,
                    keep=method.keeps(planned, weight.numel(), target),
                    latent=latent,
                    measure=method.first_measure(weight, generator),
                )
                self._layers.append(layer)
            self._mask_weights()
        self._learner = method.learner(generator.device)

    def observe(self, at: Position, loss: Tensor) -> None:
        """Before the optimizer's step: take the loss, a detached scalar, and the gradients."""
        if self._method is None:
            return
        with torch.no_grad():
            if self._method.gathers(at):
                for layer in self._layers:
                    layer.gather()
            if self._learner is not None and self._method.learns(at):
                self._learner.before_step(self._layers, loss)

    @torch.no_grad()
    def step(self, at: Position, loss_again: Callable[[], Tensor] | None = None) -> None:
        """After the optimizer's step: mask the weights, redraw the masks where it is time.

        Args:
            at: the step that is done.
            loss_again: computes the loss of the same batch with the weights as they are now;
                only ``ReinforcedPruning(paired=True)`` calls it.
        """
        self._mask_weights()
        if at.step == 0:
            self._explored = []
        if self._method is None:
            return
        if self._learner is not None and self._method.learns(at):
            self._learner.after_step(self._layers, loss_again)
        share = self._method.schedule(at)
        if share is not None:
            self._explored.append(self._method.explores(share))
            self._redraw(self._method, share)

    def sparsity(self) -> tuple[float, dict[str, float]]:
        """Return the share of the weights that are off: of all of ``prunable``, and by layer.
        """
        by_layer = {found.name: 0.0 for found in self._prunable}
        if not self._layers:
            return 0.0, by_layer
        off = torch.stack([(~layer.mask).sum() for layer in self._layers]).tolist()
        for layer, count in zip(self._layers, off, strict=True):
            by_layer[layer.name] = count / layer.mask.numel()
        return sum(off) / sum(found.weight.numel() for found in self._prunable), by_layer

    def masks(self) -> list[Tensor]:
        """Copies of the masks, True where a weight is on; one a layer."""
        return [layer.mask.clone() for layer in self._layers]

    def churn(self, before: Sequence[Tensor]) -> float:
        """Share of the weights that are on which were off in ``before``, in [0, 1].

        Args:
            before: as ``masks()`` gave them.
        """
        if not self._layers:
            return 0.0
        pairs = list(zip(self._layers, before, strict=True))
        on = torch.stack([layer.mask.sum() for layer, _ in pairs]).sum()
        new = torch.stack([(layer.mask & ~mask).sum() for layer, mask in pairs]).sum()
        return float(new / on) if on else 0.0

    def exploration(self) -> float:
        """Part of the budget that the redraws of the last epoch chose anew, in [0, 1].

        Their mean; 0 where there was none.
        """
        return fmean(self._explored) if self._explored else 0.0

    @torch.no_grad()
    def attach(self) -> None:
        """Hand the masks over to ``torch.nn.utils.prune``, which reparametrises the weights.

        Afterwards the model is an ordinary pruned one: ``prune.is_pruned`` is true, its state
        holds ``weight_orig`` and ``weight_mask``, and ``prune.remove`` makes zeros permanent. Of
        attention the names are those of its parameters, such as ``in_proj_weight``.
        """
        masks: dict[tuple[nn.Module, str], Tensor] = {}
        for layer in self._layers:
            for place in layer.found.places:
                key = place.module, place.attribute
                whole = masks.setdefault(key, torch.ones_like(layer.found.parameter))
                layer.found.part(whole).copy_(layer.mask)
        # Without gradients, as a weight that is computed with them could not be copied.
        for (module, name), mask in masks.items():
            prune.custom_from_mask(module, name, mask)
        for module in self._model.modules():
            if isinstance(module, nn.MultiheadAttention) and (module.out_proj, "weight") in masks:
                follow(module)

    def state_dict(self) -> dict[str, Any]:
        """Masks, latent and measure values, and the open rewards."""
        return {
            "layers": {
                layer.name: {
                    "mask": layer.mask,
                    "latent": layer.latent,
                    "measure": layer.measure,
                    "window": layer.window,
                }
                for layer in self._layers
            },
            "learner": None if self._learner is None else self._learner.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state_dict()``, on any device; the model's weights are loaded apart.

        The state has to be of a sparsifier with the same method and target, which are not in it.

        Raises:
            ValueError: it has other layers, or holds other things for them.
        """
        if state["layers"].keys() != {layer.name for layer in self._layers}:
            raise ValueError(f"a state of the layers {', '.join(state['layers'])}, not of these")
        for layer in self._layers:
            saved = state["layers"][layer.name]
            for name in ("mask", "latent", "measure"):
                value, mine = saved[name], getattr(layer, name)
                if getattr(value, "shape", None) != getattr(mine, "shape", None):
                    raise ValueError(f"layer {layer.name!r}: {name} is of another method or model")
                if value is not None:
                    setattr(layer, name, value.to(layer.weight.device, copy=True))
            window = saved.get("window")  # sweeps of earlier versions have none
            layer.window = None if window is None else window.to(layer.weight.device, copy=True)
            layer.use(layer.mask)
        if self._learner is not None:
            self._learner.load_state_dict(state["learner"])

    def _mask_weights(self) -> None:
        for layer in self._layers:
            layer.weight.mul_(layer.factor)

    def _redraw(self, method: PruningMethod, share: float) -> None:
        if self._learner is not None:
            self._learner.settle(self._layers)
        for layer in self._layers:
            mask = method.next_mask(layer, share, generator=self._generator)
            self._forget(layer, mask)
            if layer.latent is not None:
                layer.weight.add_(layer.latent)  # exact: one of the two is zero
                torch.mul(layer.weight, as_int8(~mask), out=layer.latent)
            if method.regrow_steps and layer.window is not None:
                missed = layer.window * as_int8(mask & ~layer.mask)
                layer.weight.sub_(missed, alpha=method.regrow_steps * self._lr(layer))
            layer.window = None
            layer.use(mask)
        self._mask_weights()

    def _lr(self, layer: Layer) -> float:
        weight = layer.found.parameter
        groups = self._optimizer.param_groups
        return next(float(g["lr"]) for g in groups if any(p is weight for p in g["params"]))

    def _forget(self, layer: Layer, mask: Tensor) -> None:
        """Zero what the optimizer remembers of weights that come back on with this mask."""
        weight = layer.found.parameter
        for value in self._optimizer.state.get(weight, {}).values():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                layer.found.part(value).mul_(as_int8(~mask | layer.mask))
