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
from rsas.sparse.methods import PruningMethod, StaticPruning
from rsas.sparse.modules import follow
from rsas.sparse.ranks import first_of_ranks
from rsas.sparse.schedules import Position

__all__ = ["Sparsifier"]

_FIXED = ("mask", "latent", "measure")
"""The tensors of a layer that it has throughout the training, or never."""


class Sparsifier:
    """Masks on the weights of a model, and the method that redraws them.

    The weights themselves are kept masked, in place, so the forward and backward passes are
    those of the plain model, and gradients are dense. Which weights these are is described at
    ``rsas.sparse.prunable``.

    A training loop calls ``observe`` and ``step`` once for each step of the optimizer::

        for x, y in batches:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            sparsifier.observe(loss)  # gradients are there, weights have not moved yet
            optimizer.step()
            sparsifier.step()  # gradients are still there

    - The sparsifier counts the steps if it has ``epochs`` and ``steps_per_epoch``. Otherwise both
      calls need the ``Position`` of the step.
    - With a GradScaler, ``scaler.unscale_`` comes before ``observe``.
    - Gradients that are summed over several batches are observed once, when they are complete.
    - Gradients are clipped before ``observe``, by ``gradient_norm``, so that methods use those that
      move the weights.
    - With ``method`` None the model stays dense, and both calls do nothing.
    - ``DistributedDataParallel``: all ranks make the same calls. Masks are those that rank 0 draws,
      whatever the seeds; losses are averaged over the ranks.
    - Averages of weights (EMA, SWA) span several masks and so are not sparse: ``apply_to`` masks
      them, after each update or once at the end.

    Args:
        model: moved to its device already; initial masks are put on at once. For
            ``first_mask="snip"`` it has the gradients of a batch. It may be wrapped
            by ``torch.compile`` or ``DistributedDataParallel``, now or later.
        optimizer: of all weights that are pruned; its state is zeroed for those that come back on.
        method: the pruning method, or None.
        target: the sparsity, and of which layers.
        generator: source of all draws, on the device of the model. Its seed must not be that of
            the initialisation, or masks and weights are made of the same random numbers.
        epochs: of the whole training, at least 1; None if all calls get a ``Position``.
        steps_per_epoch: steps of the optimizer in an epoch, at least 1; None as for ``epochs``.

    Raises:
        InputError: the target does not fit the model, the optimizer lacks a weight, or a weight
            lacks the gradient for its first mask.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        method: PruningMethod | None,
        target: Target,
        *,
        generator: torch.Generator,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
    ) -> None:
        self.steps = 0
        """Steps that were counted: the calls of ``step`` without a ``Position``."""
        self._length = epochs, steps_per_epoch
        self._optimizer = optimizer
        self._method = StaticPruning() if method is None else method  # dense: without layers
        self._generator = generator
        self._model = model
        self._prunable = prunable(model)
        self._layers: list[Layer] = []
        self._clock = self._method.clock
        self._learner = self._method.learner(generator.device)
        self._explored: list[float] = []  # by the redraws of this epoch
        self._observed: Position | None = None  # by ``observe``, until ``step``
        moved = {id(p) for group in optimizer.param_groups for p in group["params"]}
        kept = {} if method is None else target.kept(model)
        with torch.no_grad():
            for candidate in self._prunable:
                if candidate.name not in kept:
                    continue
                if id(candidate.parameter) not in moved:
                    raise InputError(
                        f"layer {candidate.name!r}: its weight is not the optimizer's; name it in "
                        "exclude"
                    )
                planned, weight = kept[candidate.name], candidate.weight
                mask = first_of_ranks(self._method.initial_mask(candidate, planned, generator))
                latent = None
                if self._method.keeps_latent:
                    # Before DistributedDataParallel, ranks may have different weights.
                    latent = first_of_ranks(weight * as_int8(~mask))
                layer = Layer(
                    candidate,
                    mask=mask,
                    keep=self._method.keeps(planned, weight.numel(), target),
                    latent=latent,
                    measure=self._method.first_measure(weight, generator),
                )
                self._layers.append(layer)
            self._mask_weights()

    @property
    def is_paired(self) -> bool:
        """Whether ``step`` needs ``loss_again``."""
        return self._learner is not None and self._learner.is_paired

    def observe(self, loss: Tensor, at: Position | None = None) -> None:
        """Take the loss and the gradients, between the backward pass and the optimizer's step.

        Args:
            loss: of the batch, one number.
            at: the step that is being done; None for the next one by the sparsifier's own count.

        Raises:
            InputError: the loss is not a tensor of one number, no weight has a gradient, ``step``
                was not called after the step before, or the training has no further step.
        """
        at = at or self._next("observe")
        if not self._layers:
            return
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            what = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"{loss!r}"
            raise InputError(
                f"Sparsifier.observe: loss is {what}; expected a tensor of one number, as "
                "loss.backward() was called on"
            )
        if self._observed is not None:
            raise InputError(
                f"Sparsifier.observe: step() was not called after {_label(self._observed)}; call "
                "it after each optimizer.step()"
            )
        self._observed = at
        gathers, learns, _ = self._uses(at)
        if gathers or learns:
            self._require_gradients("observe", "after loss.backward()")
        with torch.no_grad():
            if gathers:
                for layer in self._layers:
                    layer.gather()
            if self._learner is not None and learns:
                self._learner.before_step(self._layers, loss.detach().reshape(()))

    @torch.no_grad()
    def step(
        self, at: Position | None = None, loss_again: Callable[[], Tensor] | None = None
    ) -> None:
        """Mask the weights after the optimizer's step, and redraw the masks where it is time.

        Args:
            at: the step that is done; None for the next one by the sparsifier's own count.
            loss_again: computes the loss of the same batch with the weights as they are now;
                only a sparsifier that ``is_paired`` calls it.

        Raises:
            InputError: the method needs ``observe``, which was not called for this step, or the
                gradients, which are gone; or the training has no further step.
        """
        if at is None:
            at = self._next("step")
            self.steps += 1
        self._mask_weights()
        if at.step == 0:
            self._explored = []
        if not self._layers:
            return
        observed, self._observed = self._observed, None
        gathers, learns, redraws = self._uses(at)
        if observed != at and (gathers or learns):
            raise InputError(
                f"Sparsifier.step: observe(loss) was not called for {_label(at)}; call it between "
                "loss.backward() and optimizer.step(), with the same position if you pass one"
            )
        if self._learner is not None and learns:
            self._learner.after_step(self._layers, loss_again)
        if redraws and self._clock is not None:
            progress = self._clock.progress(at)
            explored = self._method.explored(progress)
            if explored:
                self._require_gradients("step", "before optimizer.zero_grad()")
            self._explored.append(explored)
            self._redraw(progress)

    def sparsity(self) -> tuple[float, dict[str, float]]:
        """Return the share of the weights that are off: of all of ``prunable``, and by layer.

        Raises:
            InputError: weights that are off are not zero, so ``step`` was left out.
        """
        by_layer = {candidate.name: 0.0 for candidate in self._prunable}
        if not self._layers:
            return 0.0, by_layer
        self._require_masked()
        off = torch.stack([(~layer.mask).sum() for layer in self._layers]).tolist()
        for layer, count in zip(self._layers, off, strict=True):
            by_layer[layer.name] = count / layer.mask.numel()
        return sum(off) / sum(candidate.weight.numel() for candidate in self._prunable), by_layer

    def masks(self) -> list[Tensor]:
        """Return copies of the masks, one per layer, True where a weight is on."""
        return [layer.mask.clone() for layer in self._layers]

    def churn(self, before: Sequence[Tensor]) -> float:
        """Return the share of the weights that are on which were off in ``before``, in [0, 1].

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
        """Return the share of the budget that was explored in the last epoch, in [0, 1].

        This is the mean over the epoch's redraws; 0 if the epoch had no redraw.
        """
        return fmean(self._explored) if self._explored else 0.0

    @torch.no_grad()
    def gradient_norm(self) -> Tensor:
        """Return the 2-norm of all gradients but those of weights that are off: the norm to clip.

        A weight that is off has a gradient, which the optimizer does not follow. With
        ``torch.nn.utils.clip_grads_with_norm_``, a limit then means the same at each sparsity.
        """
        norms = []
        for parameter in self._model.parameters():
            if parameter.grad is None:
                continue
            layers = [layer for layer in self._layers if layer.prunable.parameter is parameter]
            gradient = parameter.grad.clone() if layers else parameter.grad
            for layer in layers:
                layer.prunable.part(gradient).mul_(as_int8(layer.mask))
            norms.append(torch.linalg.vector_norm(gradient, dtype=torch.float32))
        return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())

    @torch.no_grad()
    def apply_to(self, model: nn.Module) -> None:
        """Mask the same layers of another model, such as an average of the weights.

        Args:
            model: of the same structure; it may be wrapped, as ``AveragedModel`` does, and on any
                device. Its weights are changed in place.

        Raises:
            InputError: a layer is missing or has another shape; nothing is changed then.
        """
        others = {candidate.name: candidate.weight for candidate in prunable(model)}
        for layer in self._layers:
            shape = others[layer.name].shape if layer.name in others else None
            if shape != layer.mask.shape:
                has = "no such layer" if shape is None else f"one of shape {tuple(shape)}"
                raise InputError(
                    f"Sparsifier.apply_to: layer {layer.name!r} has shape "
                    f"{tuple(layer.mask.shape)}, and this model has {has}; expected a model of "
                    "the same structure"
                )
        for layer in self._layers:
            weight = others[layer.name]
            weight.masked_fill_(~layer.mask.to(weight.device), 0)

    @torch.no_grad()
    def attach(self) -> None:
        """Hand the masks to ``torch.nn.utils.prune``, which reparametrises the weights.

        Afterwards the model is an ordinary pruned one: ``prune.is_pruned`` is true, its state
        holds ``weight_orig`` and ``weight_mask``, and ``prune.remove`` makes zeros permanent. Of
        attention the names are those of its parameters, such as ``in_proj_weight``.

        Raises:
            InputError: weights that are off are not zero, so ``step`` was left out.
        """
        self._require_masked()
        masks: dict[tuple[nn.Module, str], Tensor] = {}
        for layer in self._layers:
            for place in layer.prunable.places:
                key = place.module, place.attribute
                whole = masks.setdefault(key, torch.ones_like(layer.prunable.parameter))
                layer.prunable.part(whole).copy_(layer.mask)
        # Without gradients, as a weight that is computed with them could not be copied.
        for (module, name), mask in masks.items():
            prune.custom_from_mask(module, name, mask)
        for module in self._model.modules():
            if isinstance(module, nn.MultiheadAttention) and (module.out_proj, "weight") in masks:
                follow(module)

    def state_dict(self) -> dict[str, Any]:
        """Return masks, latent and measure values, gathered gradients, open rewards and steps."""
        return {
            "steps": self.steps,
            "layers": {
                layer.name: {name: getattr(layer, name) for name in (*_FIXED, "window")}
                for layer in self._layers
            },
            "learner": None if self._learner is None else self._learner.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``, on any device; the model's weights are loaded apart.

        The state must come from a sparsifier with the same method and target, which it lacks.

        Raises:
            ValueError: it has other layers, or holds other things for them.
        """
        if state["layers"].keys() != {layer.name for layer in self._layers}:
            raise ValueError(f"a state of the layers {', '.join(state['layers'])}, not of these")
        for layer in self._layers:
            saved = state["layers"][layer.name]
            for name in (*_FIXED, "window"):
                value, mine = saved[name], getattr(layer, name)
                is_alike = getattr(value, "shape", None) == getattr(mine, "shape", None)
                if name in _FIXED and not is_alike:
                    raise ValueError(f"layer {layer.name!r}: {name} is of another method or model")
                copied = None if value is None else value.to(layer.weight.device, copy=True)
                setattr(layer, name, copied)
            layer.use(layer.mask)
        if self._learner is not None:
            self._learner.load_state_dict(state["learner"])
        self.steps = state["steps"]
        self._observed = None

    def _next(self, call: str) -> Position:
        """Return the position of the next step by the sparsifier's own count."""
        epochs, steps_per_epoch = self._length
        if epochs is None or steps_per_epoch is None:
            raise InputError(
                f"Sparsifier.{call}: needs a Position, as Sparsifier(epochs=..., "
                "steps_per_epoch=...) was not given"
            )
        epoch, step = divmod(self.steps, steps_per_epoch)
        if epoch >= epochs:
            raise InputError(
                f"Sparsifier.{call}: all steps of the training are done, as epochs={epochs} and "
                f"steps_per_epoch={steps_per_epoch}; count the steps of the optimizer"
            )
        return Position(epoch, step, epochs, steps_per_epoch)

    def _uses(self, at: Position) -> tuple[bool, bool, bool]:
        """Say whether a step's gradient and reward count for a redraw, and whether one is due."""
        if self._clock is None:
            return False, False, False
        ahead = self._clock.ahead(at)
        learns = self._learner is not None and ahead < self._learner.steps
        return ahead < self._method.gather_steps, learns, ahead == 0

    def _require_gradients(self, call: str, when: str) -> None:
        if self._layers and not any(layer.has_gradient for layer in self._layers):
            raise InputError(f"Sparsifier.{call}: no pruned weight has a gradient; call it {when}")

    @torch.no_grad()
    def _require_masked(self) -> None:
        if not self._layers:
            return
        # Not a number, as a training that diverges leaves, is not above 0.
        strays = [((layer.weight.abs() > 0) & ~layer.mask).sum() for layer in self._layers]
        for layer, count in zip(self._layers, torch.stack(strays).tolist(), strict=True):
            if count:
                raise InputError(
                    f"layer {layer.name!r}: {count} of its weights are off but not zero; call "
                    "Sparsifier.step() after each optimizer.step()"
                )

    def _mask_weights(self) -> None:
        for layer in self._layers:
            layer.weight.mul_(layer.factor)

    def _redraw(self, progress: float) -> None:
        if self._learner is not None:
            self._learner.settle(self._layers)
        for layer in self._layers:
            mask = first_of_ranks(
                self._method.next_mask(layer, progress, generator=self._generator)
            )
            self._forget(layer, mask)
            if layer.latent is not None:
                layer.weight.add_(layer.latent)  # exact: one of the two is zero
                torch.mul(layer.weight, as_int8(~mask), out=layer.latent)
            if self._method.regrow_steps and layer.window is not None:
                missed = layer.window * as_int8(mask & ~layer.mask)
                layer.weight.sub_(missed, alpha=self._method.regrow_steps * self._lr(layer))
            layer.window = None
            layer.use(mask)
        self._mask_weights()

    def _lr(self, layer: Layer) -> float:
        weight = layer.prunable.parameter
        groups = self._optimizer.param_groups
        return next(float(g["lr"]) for g in groups if any(p is weight for p in g["params"]))

    def _forget(self, layer: Layer, mask: Tensor) -> None:
        """Zero what the optimizer remembers of weights that come back on with this mask."""
        weight = layer.prunable.parameter
        for value in self._optimizer.state.get(weight, {}).values():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                layer.prunable.part(value).mul_(as_int8(~mask | layer.mask))


def _label(at: Position) -> str:
    return f"step {at.step} of epoch {at.epoch}"
