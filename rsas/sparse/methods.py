"""The pruning methods: when masks change, and what they become.

A method is a frozen set of options. It says when the masks are redrawn (``schedule``) and what
the next mask of a layer is (``next_mask``); ``rsas.sparse.sparsifier`` does the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from rsas.fields import range_of, validate
from rsas.sparse import masks
from rsas.sparse.layers import Layer, Target
from rsas.sparse.measure import Learner
from rsas.sparse.schedules import count_of, cubic, interpolate

__all__ = [
    "GradualPruning",
    "Position",
    "PruningMethod",
    "RigLPruning",
    "SetPruning",
    "StaticPruning",
    "largest_gradients",
    "progress_at",
    "steps_ahead",
]

_Generator = torch.Generator | None


@dataclass(frozen=True)
class Position:
    """Where in the training a step is, counted from 0."""

    epoch: int
    step: int
    epochs: int
    steps_per_epoch: int

    @property
    def done(self) -> int:
        """Steps of the whole training that are done when this one is."""
        return self.epoch * self.steps_per_epoch + self.step + 1

    def steps_of(self, part: float) -> int:
        """Steps in the first ``part`` of the training, at least one."""
        return max(1, round(part * self.epochs * self.steps_per_epoch))


@dataclass(frozen=True, kw_only=True)
class PruningMethod:
    """What every method does unless it says otherwise: a random mask that stays.

    Raises:
        InputError: an option is of the wrong type, out of its range or not among its choices.
    """

    def __post_init__(self) -> None:
        validate(self)

    @property
    def keeps_latent(self) -> bool:
        """Whether weights that are off keep their value; otherwise they regrow at zero."""
        return False

    @property
    def is_paired(self) -> bool:
        """Whether ``Sparsifier.step`` needs the loss of the batch again."""
        return False

    def keeps(self, planned: int, numel: int, target: Target) -> int:
        """Ones of a layer's redrawn masks, where the target plans so many."""
        return planned

    def first_mask(self, weight: Tensor, keep: int, generator: _Generator) -> Tensor:
        """The mask training begins with."""
        return masks.draw(torch.ones_like(weight, dtype=torch.bool), keep, generator=generator)

    def first_measure(self, weight: Tensor, generator: _Generator) -> Tensor | None:
        """The measure values training begins with; None where there are none."""
        return None

    def learner(self, device: torch.device) -> Learner | None:
        """What measure values are learned by; None where none are learned."""
        return None

    def learns(self, at: Position) -> bool:
        """Whether the learner observes a step."""
        return False

    def gathers(self, at: Position) -> bool:
        """Whether the gradient of a step is to be summed up for the next redraw."""
        return False

    @property
    def regrow_steps(self) -> float:
        """Multiple of the gathered SGD steps that a weight which comes back on starts from."""
        return 0.0

    def schedule(self, at: Position) -> float | None:
        """A share in [0, 1] for ``next_mask``, at a step after which masks are redrawn."""
        return None

    def explores(self, share: float) -> float:
        """Part of the budget that a redraw with this share chooses anew, in [0, 1]."""
        return 0.0

    def next_mask(self, layer: Layer, share: float, *, generator: _Generator = None) -> Tensor:
        """The redrawn mask of a layer, boolean, of the shape of its weight."""
        return layer.mask


@dataclass(frozen=True, kw_only=True)
class StaticPruning(PruningMethod):
    """A random mask, drawn once and kept: the control every other method has to beat.

    A network trained from scratch on a fixed random mask (Liu et al. 2022, "The Unreasonable
    Effectiveness of Random Pruning"; with ``distribution="erk"`` their stronger variant).
    """


@dataclass(frozen=True, kw_only=True)
class SetPruning(PruningMethod):
    """SET: drop the smallest weights, grow random ones (Mocanu et al. 2018, algorithm 1).

    As in the comparisons of the RigL paper (Evci et al. 2020): by magnitude, where the original
    drops the smallest positive and the largest negative weights apart; a share that falls to 0,
    where it is constant; every so many steps, where it is every epoch; growing at zero.

    Attributes:
        update_interval: training steps between redraws.
        update_stop: part of the training, in (0, 1], after which masks stay.
        drop_fraction: share of a layer's weights replaced at the first redraw, in [0, 1]; it
            falls to 0 at the stop by half a cosine (Evci et al. 2020, RigL, section 3).
    """

    update_interval: int = field(default=50, metadata=range_of(1, 10**9))
    update_stop: float = field(default=0.75, metadata=range_of(0, 1, open_low=True))
    drop_fraction: float = field(default=0.3, metadata=range_of(0, 1))

    def schedule(self, at: Position) -> float | None:
        """Share of the weights to replace."""
        progress = progress_at(at, self.update_interval, self.update_stop)
        if progress is None or progress == 1.0:
            return None
        return interpolate("cosine", self.drop_fraction, 0.0, progress)

    def explores(self, share: float) -> float:
        """What grows."""
        return share

    def next_mask(self, layer: Layer, share: float, *, generator: _Generator = None) -> Tensor:
        """Exactly ``layer.keep`` ones: what is left of the mask, and what grows."""
        if not layer.has_gradient:
            return layer.mask  # not in use: what would grow could not train
        grown = count_of(layer.keep, share)
        left = masks.top(_magnitude(layer), layer.keep - grown, generator=generator)
        return left | self.grow(layer, ~left, grown, generator=generator)

    def grow(
        self, layer: Layer, available: Tensor, count: int, *, generator: _Generator = None
    ) -> Tensor:
        """``count`` of the available positions; those just dropped are among them."""
        return masks.draw(available, count, generator=generator)


@dataclass(frozen=True, kw_only=True)
class RigLPruning(SetPruning):
    """RigL: drop the smallest weights, grow those of the largest gradient (Evci et al. 2020).

    "Rigging the Lottery", algorithm 1, which looks at the gradient of one batch.

    Attributes:
        grow_steps: steps before each redraw whose gradients are summed up for that, at least 1
            (published). What batches do not agree on cancels out.
    """

    grow_steps: int = field(default=1, metadata=range_of(1, 10**9))

    def gathers(self, at: Position) -> bool:
        """Whether the gradient of a step is to be summed up for the next redraw."""
        if self.grow_steps == 1:
            return False  # the last gradient is there anyway
        ahead = steps_ahead(at, self.update_interval, self.update_stop)
        if ahead is None or at.done + ahead == at.steps_of(self.update_stop):
            return False  # nothing grows at the stop
        return ahead < self.grow_steps

    def grow(
        self, layer: Layer, available: Tensor, count: int, *, generator: _Generator = None
    ) -> Tensor:
        """The ``count`` available positions of the largest gradient magnitude."""
        return largest_gradients(layer, available, count, generator)


@dataclass(frozen=True, kw_only=True)
class GradualPruning(PruningMethod):
    """GMP: train dense, drop the smallest weights little by little (Zhu & Gupta 2018).

    "To prune, or not to prune", eq. 1, from sparsity 0: the share of the final sparsity that is
    reached at the part p of the way to the stop is 1 - (1 - p)^3.

    Attributes:
        update_interval: training steps between prunings.
        update_stop: part of the training, in (0, 1], after which the final sparsity holds.
    """

    update_interval: int = field(default=50, metadata=range_of(1, 10**9))
    update_stop: float = field(default=0.75, metadata=range_of(0, 1, open_low=True))

    def first_mask(self, weight: Tensor, keep: int, generator: _Generator) -> Tensor:
        """All ones."""
        return torch.ones_like(weight, dtype=torch.bool)

    def schedule(self, at: Position) -> float | None:
        """Share of the final sparsity to reach."""
        progress = progress_at(at, self.update_interval, self.update_stop)
        return None if progress is None else cubic(progress)

    def next_mask(self, layer: Layer, share: float, *, generator: _Generator = None) -> Tensor:
        """The largest of the weights that are on."""
        size = layer.mask.numel()
        keep = size - round((size - layer.keep) * share)
        return masks.top(_magnitude(layer), keep, generator=generator)


def progress_at(at: Position, interval: int, stop: float) -> float | None:
    """Progress in (0, 1] to the stop, after every ``interval`` steps and at the stop."""
    last = at.steps_of(stop)
    if at.done == last:
        return 1.0
    return at.done / last if at.done < last and at.done % interval == 0 else None


def steps_ahead(at: Position, interval: int, stop: float) -> int | None:
    """Steps from this one to the next that ``progress_at`` names; None after the last."""
    last = at.steps_of(stop)
    return None if at.done > last else min(-at.done % interval, last - at.done)


def _magnitude(layer: Layer) -> Tensor:
    """Magnitudes of the weights that are on, which may be zero; -1 for those that are off."""
    return layer.weight.abs().sub_(masks.as_int8(~layer.mask))


def largest_gradients(layer: Layer, available: Tensor, count: int, generator: _Generator) -> Tensor:
    """The ``count`` available positions of the largest ``recent_gradient`` in magnitude."""
    # Gradients may be zero, as behind units that are dead: those off limits have to be below.
    scores = layer.recent_gradient.abs()
    scores.sub_(masks.as_int8(~available), alpha=torch.finfo(scores.dtype).max)
    return masks.top(scores, count, generator=generator)
