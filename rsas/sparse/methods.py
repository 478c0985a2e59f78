"""The pruning methods: when masks are redrawn, and what they become.

A method is a frozen set of options. Its ``clock`` says when masks are redrawn, its ``schedule`` how
many weights a redraw keeps and how many it explores, and two scores say which ones.
``rsas.sparse.sparsifier`` does the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rsas.errors import InputError
from rsas.fields import validate
from rsas.options import FirstMask, option
from rsas.sparse import masks
from rsas.sparse.layers import Layer, Prunable, Target
from rsas.sparse.measure import Learner
from rsas.sparse.schedules import Clock, Every, count_of, cubic, interpolate

__all__ = [
    "GradualPruning",
    "PruningMethod",
    "Redraw",
    "RigLPruning",
    "SetPruning",
    "StaticPruning",
]

_Generator = torch.Generator | None


@dataclass(frozen=True)
class Redraw:
    """The numbers of weights of a layer that are on after a redraw.

    Attributes:
        keep: those of the largest ``keep_score``.
        explore: those of the largest ``fill_score`` among the others.
    """

    keep: int
    explore: int


@dataclass(frozen=True, kw_only=True)
class PruningMethod:
    """A mask that stays: the behaviour of a method that overrides nothing.

    A method that redraws masks overrides ``clock``, ``explored`` and ``schedule``, and a score
    where it is not that of SET.

    Attributes:
        first_mask: the weights of each layer that are on at first. ``random``; ``magnitude``, the
            largest ones, which suits weights trained before; or ``snip``, those of the largest
            abs(w * g), g being the gradient of a batch (Lee et al. 2019, "SNIP", eq. 5), here
            within the budget of each layer.

    Raises:
        InputError: an option is of the wrong type, out of its range or not among its choices.
    """

    first_mask: FirstMask = option("first_mask")

    def __post_init__(self) -> None:
        validate(self)

    @property
    def clock(self) -> Clock | None:
        """The steps after which masks are redrawn; None for a mask that stays."""
        return None

    def explored(self, progress: float) -> float:
        """Return the share of the budget that a redraw explores, in [0, 1]."""
        return 0.0

    def schedule(self, layer: Layer, progress: float) -> Redraw | None:
        """Return the numbers of weights to keep and to explore; None if the mask stays.

        Args:
            layer: its budget is ``layer.keep``.
            progress: of the clock, in [0, 1]; 1 at the final redraw.
        """
        return None

    def keep_score(self, layer: Layer) -> Tensor:
        """Return the scores by which weights are kept; by default their magnitude, -1 if off."""
        # Weights that are on may be zero, and rank above those that are off.
        return layer.weight.abs().sub_(masks.as_int8(~layer.mask))

    def fill_score(self, layer: Layer) -> Tensor | None:
        """Return a new tensor of scores by which weights are explored; None for random ones."""
        return None

    def next_mask(self, layer: Layer, progress: float, *, generator: _Generator = None) -> Tensor:
        """Return the redrawn mask of a layer, boolean, of the shape of its weight."""
        redraw = self.schedule(layer, progress)
        if redraw is None:
            return layer.mask
        mask = masks.top(self.keep_score(layer), redraw.keep, generator=generator)
        if redraw.explore == 0:
            return mask
        scores = self.fill_score(layer)
        if scores is None:
            return mask | masks.draw(~mask, redraw.explore, generator=generator)
        # Gradients may be zero, as behind dead units, so weights that are kept must rank below.
        scores.sub_(masks.as_int8(mask), alpha=torch.finfo(scores.dtype).max)
        return mask | masks.top(scores, redraw.explore, generator=generator)

    @property
    def gather_steps(self) -> int:
        """Steps before each redraw whose gradients are summed up for that redraw."""
        return 0

    @property
    def keeps_latent(self) -> bool:
        """Whether weights that are off keep their value; otherwise they regrow at zero."""
        return False

    @property
    def regrow_steps(self) -> float:
        """Multiple of the gathered SGD steps that a weight which comes back on starts from."""
        return 0.0

    def initial_mask(self, layer: Prunable, keep: int, generator: _Generator) -> Tensor:
        """Return the mask that training begins with.

        Raises:
            InputError: ``first_mask`` is ``snip``, and the weight has no gradient.
        """
        weight = layer.weight
        if self.first_mask == "random" or keep == weight.numel():
            return masks.draw(torch.ones_like(weight, dtype=torch.bool), keep, generator=generator)
        if self.first_mask == "magnitude":
            return masks.top(weight.abs(), keep, generator=generator)
        if layer.parameter.grad is None:
            raise InputError(
                f"first_mask='snip': the weight of layer {layer.name!r} has no gradient; call "
                "loss.backward() for a batch before the masks are put on, or name it in exclude"
            )
        return masks.top((weight * layer.gradient).abs(), keep, generator=generator)

    def first_measure(self, weight: Tensor, generator: _Generator) -> Tensor | None:
        """Return the measure values that training begins with; None where there are none."""
        return None

    def learner(self, device: torch.device) -> Learner | None:
        """Return the learner of measure values; None where none are learned."""
        return None

    def keeps(self, planned: int, numel: int, target: Target) -> int:
        """Return the number of ones of a layer's redrawn masks, where the target plans one."""
        return planned


@dataclass(frozen=True, kw_only=True)
class StaticPruning(PruningMethod):
    """The first mask, kept: with a random one, the control every other method has to beat.

    A network trained from scratch on a fixed random mask (Liu et al. 2022, "The Unreasonable
    Effectiveness of Random Pruning"; with ``distribution="erk"`` their stronger variant).
    """


@dataclass(frozen=True, kw_only=True)
class SetPruning(PruningMethod):
    """SET: drop the smallest weights, grow random ones (Mocanu et al. 2018, algorithm 1).

    This is the variant that the RigL paper compares with (Evci et al. 2020). It drops by magnitude;
    the original drops the smallest positive and the largest negative weights. Its share of dropped
    weights falls to 0; the original's is constant. It redraws at an interval of steps; the original
    does after each epoch. Weights grow at zero, and those just dropped may grow again.

    Attributes:
        update_interval: training steps between redraws.
        update_stop: part of the training, in (0, 1], after which masks stay.
        drop_fraction: share of a layer's weights replaced at the first redraw, in [0, 1]; it
            falls to 0 at the stop by half a cosine (Evci et al. 2020, RigL, section 3).
    """

    update_interval: int = option("update_interval")
    update_stop: float = option("update_stop")
    drop_fraction: float = option("drop_fraction")

    @property
    def clock(self) -> Clock:
        return Every(self.update_interval, self.update_stop, final=False)

    def explored(self, progress: float) -> float:
        return interpolate("cosine", self.drop_fraction, 0.0, progress)

    def schedule(self, layer: Layer, progress: float) -> Redraw | None:
        if not layer.has_gradient:
            return None  # not in use: what would grow could not train
        grown = count_of(layer.keep, self.explored(progress))
        return Redraw(keep=layer.keep - grown, explore=grown)


@dataclass(frozen=True, kw_only=True)
class RigLPruning(SetPruning):
    """RigL: drop the smallest weights, grow those of the largest gradient (Evci et al. 2020).

    "Rigging the Lottery", algorithm 1, which looks at the gradient of one batch.

    Attributes:
        grow_steps: steps before each redraw whose gradients are summed up for that redraw, at least
            1 (published). Gradients on which batches disagree cancel out.
    """

    grow_steps: int = option("grow_steps")

    def fill_score(self, layer: Layer) -> Tensor:
        return layer.recent_gradient.abs()

    @property
    def gather_steps(self) -> int:
        return 0 if self.grow_steps == 1 else self.grow_steps  # the last gradient is there anyway


@dataclass(frozen=True, kw_only=True)
class GradualPruning(PruningMethod):
    """GMP: train dense, drop the smallest weights little by little (Zhu & Gupta 2018).

    "To prune, or not to prune", eq. 1, from sparsity 0: the share of the final sparsity that is
    reached at the part p of the way to the stop is 1 - (1 - p)^3.

    Attributes:
        update_interval: training steps between prunings.
        update_stop: part of the training, in (0, 1], after which the final sparsity holds.
    """

    update_interval: int = option("update_interval")
    update_stop: float = option("update_stop")

    @property
    def clock(self) -> Clock:
        return Every(self.update_interval, self.update_stop)

    def initial_mask(self, layer: Prunable, keep: int, generator: _Generator) -> Tensor:
        return torch.ones_like(layer.weight, dtype=torch.bool)

    def schedule(self, layer: Layer, progress: float) -> Redraw:
        size = layer.mask.numel()
        return Redraw(keep=size - round((size - layer.keep) * cubic(progress)), explore=0)
