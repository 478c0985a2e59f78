"""Which weights of a model are pruned, and how many of each stay on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from rsas.errors import InputError
from rsas.fields import range_of, validate
from rsas.options import Distribution, option
from rsas.sparse import distributions
from rsas.sparse.masks import as_int8
from rsas.sparse.modules import Place, places

__all__ = ["Layer", "Prunable", "Target", "prunable"]


@dataclass(frozen=True)
class Prunable:
    """A weight tensor that can be pruned, and its places in the model."""

    parameter: nn.Parameter
    places: list[Place]  # in the order of the model; more than one if the weight is shared

    @property
    def name(self) -> str:
        """Return the first name, by which the layer is known."""
        return self.places[0].name

    @property
    def names(self) -> list[str]:
        """Return all names."""
        return [place.name for place in self.places]

    @property
    def weight(self) -> Tensor:
        """Return the parameter, or a view of those of its rows that are this weight."""
        return self.part(self.parameter)

    @property
    def gradient(self) -> Tensor:
        """Return the gradient of the last backward pass, zero if the pass has not reached it."""
        gradient = self.parameter.grad
        return torch.zeros_like(self.weight) if gradient is None else self.part(gradient)

    def part(self, value: Tensor) -> Tensor:
        """Return a view of the part of this weight in a tensor of the parameter's shape."""
        rows = self.places[0].rows
        return value if rows is None else value[rows]


@dataclass
class Layer:
    """One pruned weight tensor. All tensors have its shape and device."""

    prunable: Prunable
    mask: Tensor  # boolean; the weight is zero wherever the mask is off
    keep: int  # k, the budget: the number of ones in the end
    latent: Tensor | None  # values of weights that are off, zero elsewhere; None: they regrow at 0
    measure: Tensor | None  # measure values; None for methods that learn none
    window: Tensor | None = None  # sum of the gradients of steps that count for the next redraw
    factor: Tensor = field(init=False)  # the mask as the number that the weight is multiplied by

    def __post_init__(self) -> None:
        self.use(self.mask)

    def use(self, mask: Tensor) -> None:
        """Put another mask on; masking multiplies the weight by ``factor``.

        For 784,000 weights on one CPU thread, during training, the product takes 0.43 ms with bool,
        0.25 ms with int8 and 0.14 ms with float32; a dense step takes 4.3 ms. The float32 copy is
        worth its memory on a CPU, unless latent values take as much already.
        """
        self.mask = mask
        self.factor = as_int8(mask)
        if self.latent is None and mask.device.type == "cpu":
            self.factor = self.factor.to(self.weight.dtype)

    @property
    def name(self) -> str:
        """Return the first name of the layer."""
        return self.prunable.name

    @property
    def weight(self) -> Tensor:
        """Return the weight, to be changed in place without gradients."""
        return self.prunable.weight

    @property
    def has_gradient(self) -> bool:
        """Say whether the last backward pass reached the weight."""
        return self.prunable.parameter.grad is not None

    @property
    def gradient(self) -> Tensor:
        """Return the gradient of the last backward pass, which weights that are off have, too."""
        return self.prunable.gradient

    @property
    def recent_gradient(self) -> Tensor:
        """Return the sum of the gradients gathered since the last redraw; without any, the last."""
        return self.gradient if self.window is None else self.window

    def gather(self) -> None:
        """Add the gradient of this step to those that count for the next redraw."""
        if self.window is None:
            self.window = self.gradient.clone()
        else:
            self.window += self.gradient


def prunable(model: nn.Module) -> list[Prunable]:
    """Return each weight of convolutions, linear maps and attention once.

    These are the modules Conv1d to Conv3d, ConvTranspose1d to ConvTranspose3d and Linear, and of
    ``nn.MultiheadAttention`` the four projections, each a layer: ``q_proj``, ``k_proj``, ``v_proj``
    and ``out_proj``, whether torch keeps the first three in one parameter or in three. Sparsity and
    numbers of weights refer to all these. Biases, normalisation, embeddings, recurrent layers (RNN,
    LSTM, GRU), Bilinear and parameters of other modules are neither pruned nor counted.

    Names are those of the model inside ``torch.compile``, data parallelism and ``AveragedModel``.
    Weights that are empty, complex or not initialised yet are left out, and so are those that are
    computed from other parameters, as weight_norm does.
    """
    weights: dict[tuple[nn.Parameter, int], Prunable] = {}
    for place in places(model):
        weight = place.module._parameters.get(place.attribute)
        if weight is None or is_lazy(weight) or weight.is_complex() or weight.numel() == 0:
            continue
        start = 0 if place.rows is None else place.rows.start
        weights.setdefault((weight, start), Prunable(weight, [])).places.append(place)
    return list(weights.values())


@dataclass(frozen=True, kw_only=True)
class Target:
    """The sparsity asked for, and of which layers.

    Attributes:
        sparsity: share of the weights of the chosen layers that is off, in [0, 1).
        distribution: ``uniform``, the same in every layer; ``erk``, Erdos-Renyi-kernel (Evci et
            al. 2020, section 3); or ``map``, in proportion to ``layer_densities``.
        layer_densities: pattern of layer names -> relative density, above 0; the first pattern
            that fits a layer counts. They are scaled together to the budget that ``sparsity``
            leaves, and cut off at 1, so densities that meet the budget stay as they are.
        include: patterns of the names of layers to prune, such as ``features.*``.
        exclude: patterns of the names of layers that stay dense, among those included.

    Raises:
        InputError: a field is of the wrong type, out of its range or not among its choices.
    """

    sparsity: float = field(metadata=range_of(0, 1, open_high=True))
    distribution: Distribution = option("distribution")
    layer_densities: Mapping[str, float] = field(default_factory=dict)
    include: tuple[str, ...] = option("include")
    exclude: tuple[str, ...] = option("exclude")

    def __post_init__(self) -> None:
        validate(self, ("sparsity", "distribution", "include", "exclude"))

    def kept(self, model: nn.Module) -> dict[str, int]:
        """Return the number of weights that stay on, by the name of each layer that is pruned.

        A weight that several layers share is chosen, or left dense, if any of them is named. A
        weight that is not trained (``requires_grad`` is false) is not pruned.

        Under ``uniform`` each number is the nearest to size * (1 - sparsity); otherwise their sum
        is the nearest to that of the whole.

        Raises:
            InputError: a pattern fits no layer, a layer no pattern, or a weight is unsuitable.
        """
        all_places = list(places(model))
        names = list(dict.fromkeys(place.name for place in all_places))
        for field_name in ("include", "exclude", "layer_densities"):
            for pattern in getattr(self, field_name):
                if pattern != "*" and not _fits(names, pattern):
                    raise InputError(
                        f"{field_name}: {pattern!r} fits no layer; they are {', '.join(names)}"
                    )
        for place in all_places:
            if self._chooses([place.name]) and place.is_computed:
                raise InputError(
                    f"the weight of layer {place.name!r} is computed from other parameters (by "
                    "weight_norm, parametrize or prune) and cannot be masked; name it in exclude"
                )
        chosen = [
            candidate
            for candidate in prunable(model)
            if candidate.parameter.requires_grad and self._chooses(candidate.names)
        ]
        sizes = {candidate.name: candidate.weight.numel() for candidate in chosen}
        if self.distribution == "uniform":
            return {name: distributions.kept(n, self.sparsity) for name, n in sizes.items()}
        densities = {
            candidate.name: self._density(candidate.names, candidate.weight.shape)
            for candidate in chosen
        }
        budget = distributions.kept(sum(sizes.values()), self.sparsity)
        return distributions.share_out(sizes, densities, budget)

    def _chooses(self, names: list[str]) -> bool:
        return any(_fits(names, pattern) for pattern in self.include) and not any(
            _fits(names, pattern) for pattern in self.exclude
        )

    def _density(self, names: list[str], shape: tuple[int, ...]) -> float:
        if self.distribution == "erk":
            return distributions.erdos_renyi_kernel(shape)
        for pattern, density in self.layer_densities.items():
            if _fits(names, pattern):
                return density
        raise InputError(f"layer_densities: no pattern fits layer {names[0]!r}; '*' fits all")


def _fits(names: list[str], pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in names)
