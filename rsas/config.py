"""The configuration of one training run: frozen, validated, JSON-serialisable."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from rsas.errors import InputError
from rsas.fields import parse_assignments, range_of, require_field, validate
from rsas.options import Options

__all__ = ["LoopConfig", "Pruning", "TrainConfig"]


@dataclass(frozen=True, kw_only=True)
class Pruning(Options):
    """How a network is pruned while it trains: the method, the sparsity and all options.

    Raises:
        InputError: a value is of the wrong type, out of its range or not among its choices.
    """

    method: Literal[
        "reinforced", "dense", "static", "noise", "set", "rigl", "gmp", "small_dense"
    ] = "reinforced"
    """small_dense trains a narrower dense network with as many weights as the sparse one keeps."""
    sparsity: float = field(default=0.9, metadata=range_of(0, 1, open_high=True))
    """Pruning rate: share of the weights of the chosen layers that is off."""
    layer_densities: tuple[tuple[str, float], ...] = ()
    """Relative densities for ``map``: a mapping of layer name patterns to numbers above 0."""

    def __post_init__(self) -> None:
        validate(self)
        if any(not density > 0 for _, density in self.layer_densities):
            raise InputError(
                f"layer_densities={dict(self.layer_densities)}: every density must be above 0"
            )
        if self.distribution == "map" and not self.layer_densities:
            raise InputError(
                "distribution='map': needs layer_densities, such as {'fc1': 0.1, '*': 1}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON types, which ``from_dict`` reads."""
        return {name: _plain(value) for name, value in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the configuration with these fields, and the defaults for the rest.

        Raises:
            InputError: a name is not a field, or a value is not valid.
        """
        for name in values:
            require_field(cls, name)
        return cls(**values)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed.

        Raises:
            InputError: a name is not a field, or a value is not valid.
        """
        return self.from_dict(self.to_dict() | changes)

    def override(self, assignments: Iterable[str]) -> Self:
        """Return a copy with fields set from texts such as ``"epochs=5"`` or ``"hidden=300,100"``.

        Raises:
            InputError: a text is not NAME=VALUE, or the value does not fit the field.
        """
        return self.replace(**parse_assignments(type(self), assignments))


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Pruning):
    """One training run. On a CPU, the same configuration gives the same result.

    Every field can be set by name in a search space, with ``--set NAME=VALUE`` on the command
    line, or with ``dataclasses.replace``.

    Raises:
        InputError: a value is of the wrong type, out of its range or not among its choices.
    """

    # Data
    dataset: str = "digits"
    """digits, mnist, fashion_mnist, svhn, cifar10, cifar100, or npz:PATH (see rsas.data)."""
    val_fraction: float = field(default=0.1, metadata=range_of(0, 0.9))
    """Share of the training images held out for validation, stratified by class."""
    split_seed: int = field(default=0, metadata=range_of(0, 2**32 - 1))
    """Seed of that split; separate from ``seed``, so that runs with other seeds share the split."""
    mean: tuple[float, ...] = ()
    """Channel means subtracted from inputs in [0, 1]; one per channel, or empty for none."""
    std: tuple[float, ...] = ()
    """Channel standard deviations the inputs are divided by, or empty for none."""
    augment: Literal["none", "flip_crop", "resized_crop_224"] = "none"
    """flip_crop: horizontal flip and a crop from 4 pixels of zero padding. resized_crop_224: a
    random crop of 8-100% of the area scaled to 224x224, and a flip (evaluation scales only)."""

    # Model
    model: str = "mlp"
    """mlp, resnet18, vgg16, or module:function / file.py:function returning an nn.Module."""
    hidden: tuple[int, ...] = (1000,)
    """Widths of the hidden layers of ``mlp``."""
    stem: Literal["imagenet", "small"] = "imagenet"
    """First layers of resnet18: 7x7 stride 2 and max-pooling, or 3x3 stride 1 for 32x32 images."""

    # Optimisation
    epochs: int = field(default=10, metadata=range_of(1, 10**6))
    batch_size: int = field(default=100, metadata=range_of(1, 10**6))
    accumulate: int = field(default=1, metadata=range_of(1, 10**6))
    """Batches whose gradients are averaged for one step of the optimizer. Steps of pruning, such
    as ``update_interval``, count steps of the optimizer."""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """adamw: Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""
    lr: float = field(default=0.1, metadata=range_of(0, 1e3, open_low=True))
    lr_schedule: Literal["constant", "cosine", "multi_step"] = "constant"
    """cosine: from ``lr`` to 0 over the training after the warm-up, step by step. multi_step: times
    ``gamma`` at each of ``milestones``."""
    warmup: float = field(default=0.0, metadata=range_of(0, 1, open_high=True))
    """Share of the training in which the learning rate rises linearly to that of the schedule."""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """Of multi_step: shares of the training, in (0, 1)."""
    gamma: float = field(default=0.1, metadata=range_of(0, 1, open_low=True))
    """Of multi_step: the factor at each milestone."""
    momentum: float = field(default=0.0, metadata=range_of(0, 0.9999))
    """Momentum of SGD."""
    nesterov: bool = False
    """Nesterov's momentum, for SGD."""
    weight_decay: float = field(default=0.0, metadata=range_of(0, 1e3))
    decay: Literal["all", "weights"] = "all"
    """Parameters with weight decay. weights: only those of two or more dimensions, without biases
    and the scales of normalisation."""
    label_smoothing: float = field(default=0.0, metadata=range_of(0, 1))
    """Share of each training label that is spread over all classes (Szegedy et al. 2016). val_loss
    is measured without label smoothing."""
    clip_norm: float = field(default=0.0, metadata=range_of(0, 1e9))
    """Largest 2-norm of the gradients of a step; larger ones are scaled down. 0: no limit. The norm
    leaves out weights that are off, so that a limit means the same at each sparsity."""
    seed: int = field(default=0, metadata=range_of(0, 2**63 - 1))
    """Seed of initialisation, batch order, augmentation, dropout and mask draws."""
    device: str = "auto"
    """auto (cuda where there is one), cpu, cuda or cuda:N."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: forward and backward pass under torch.autocast; weights and masks stay float32."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(width < 1 for width in self.hidden):
            raise InputError(f"hidden={list(self.hidden)}: every width must be at least 1")
        if any(not value > 0 for value in self.std):
            raise InputError(f"std={list(self.std)}: every value must be above 0")
        if not all(0 < share < 1 for share in self.milestones):
            raise InputError(
                f"milestones={list(self.milestones)}: every share of the training must be in (0, 1)"
            )
        if self.stem != "imagenet" and self.model != "resnet18":
            raise InputError(f"stem={self.stem!r}: only resnet18 has it, not model={self.model!r}")


@dataclass(frozen=True, kw_only=True)
class LoopConfig(Pruning):
    """One run of a training loop of the user's own.

    As a dict, it is flat: all names that are not fields are parameters of the loop.

    Raises:
        InputError: a field is not valid, or a parameter is not a JSON value.
    """

    epochs: int = field(default=10, metadata=range_of(1, 10**6))
    seed: int = field(default=0, metadata=range_of(0, 2**63 - 1))
    """Seed of initialisation, data order and mask draws."""
    device: str = "auto"
    """auto (cuda where there is one), cpu, cuda or cuda:N."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """JSON values for the loop, which reads them as ``run.params``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method == "small_dense":
            raise InputError(
                "method='small_dense': an own loop builds its model itself; train a narrower "
                "model with method='dense'"
            )
        for name, value in self.params.items():
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError, RecursionError):
                raise InputError(f"parameter {name}={value!r}: expected a JSON value") from None

    def to_dict(self) -> dict[str, Any]:
        """Return all fields and parameters as JSON types, which ``from_dict`` reads."""
        values = super().to_dict()
        params = values.pop("params")
        return {**values, **params}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the configuration with these fields and parameters.

        Raises:
            InputError: a value is not valid.
        """
        names = {f.name for f in dataclasses.fields(cls)} - {"params"}
        params = {name: value for name, value in values.items() if name not in names}
        return cls(params=params, **{n: value for n, value in values.items() if n in names})

    def override(self, assignments: Iterable[str]) -> Self:
        """Return a copy with fields and parameters set from texts such as ``"lr=0.01"``.

        Raises:
            InputError: a text is not NAME=VALUE, or the value does not fit the field.
        """
        return self.replace(**parse_assignments(type(self), assignments, others=True))


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
