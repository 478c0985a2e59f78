"""Prepare networks for the export: on the CPU, in eval mode, with masks folded into weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import prune

from rsas import models, small_dense
from rsas.config import LoopConfig, TrainConfig
from rsas.errors import InputError
from rsas.export.files import Stored
from rsas.sparse import prunable
from rsas.sparse.modules import inner, pruners, unfollow

if TYPE_CHECKING:
    from rsas.trainer import RunResult

__all__ = ["Network", "network_of", "rebuild"]

_SCHEMA = 1
# Errors of metadata, which can be any JSON, and of torch.
_MISFITS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class Network:
    """A network to export.

    Attributes:
        model: its weights that are off are +0.0. It has no ``torch.nn.utils.prune`` and no wrapper,
            such as ``torch.compile``.
        config: of its training; None for a model that was made elsewhere.
        input_shape: shape of one input; None if unknown.
        num_classes: width of the output; None if unknown.
        about: JSON values for readers of the file, such as sweep and trial.
    """

    model: nn.Module
    config: TrainConfig | LoopConfig | None = None
    input_shape: tuple[int, ...] | None = None
    num_classes: int | None = None
    about: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_state(
        cls,
        state: dict[str, Any],
        config: TrainConfig | LoopConfig,
        model: nn.Module | None = None,
        **about: Any,
    ) -> Network:
        """Return the network of ``Trainer.final_state()``.

        Args:
            state: may come from elsewhere; code that it names is not run.
            config: what the network was trained with. A model function that it names is called.
            model: the network that a loop of the user's own builds, whose weights are replaced.
            about: JSON values for those who look at the file.

        Raises:
            InputError: the model cannot be built, or the state is not of it.
        """
        try:
            known = state["input_shape"]
            shape, classes = None if known is None else tuple(known), state["num_classes"]
            if model is None:
                assert isinstance(config, TrainConfig) and shape is not None
                width = small_dense.width_of(config, shape, classes)
                with torch.random.fork_rng([]):
                    model = models.build(config, shape, classes, width=width)
            model = inner(model)
            model.load_state_dict(state["model"])
            with torch.no_grad():
                for layer in prunable(model):
                    if layer.name in state["masks"]:
                        _switch_off(layer.weight, state["masks"][layer.name])
        except (KeyError, TypeError, RuntimeError) as error:
            raise InputError(f"a final model cannot be read: {_two_lines(error)}") from None
        return cls(_plain(model), config, shape, classes, {**about, "epoch": state.get("epoch")})

    def metadata(self) -> dict[str, Any]:
        """Return JSON values that describe the network, for ``rebuild`` and for readers."""
        width = 1.0
        shape, classes = self.input_shape, self.num_classes
        if isinstance(self.config, TrainConfig) and shape is not None and classes is not None:
            width = small_dense.width_of(self.config, shape, classes)
        return {
            "schema": _SCHEMA,
            "config": None if self.config is None else self.config.to_dict(),
            "input_shape": None if self.input_shape is None else list(self.input_shape),
            "num_classes": self.num_classes,
            "width": width,
            "about": self.about,
        }


def network_of(
    source: Network | RunResult | nn.Module, input_shape: tuple[int, ...] | None = None
) -> Network:
    """Return the network to export from a training run or from any model, which is not changed.

    Args:
        source: a model may have masks of ``torch.nn.utils.prune``.
        input_shape: shape of one input, for an ``nn.Module``.
    """
    if isinstance(source, Network):
        return source
    if isinstance(source, nn.Module):
        return Network(_plain(source), input_shape=input_shape)
    return Network(_plain(source.model), source.config, source.input_shape, source.num_classes)


def rebuild(stored: Stored, builder: Callable[..., nn.Module] | None, what: str) -> nn.Module:
    """Return the network of a file, in eval mode, with the bits of the file's tensors.

    Args:
        stored: the tensors and the values of ``Network.metadata``. The tensors are unpacked only if
            the network has their names and shapes. No code that the metadata names is run.
        builder: makes the network. It gets those of ``input_shape``, ``num_classes`` and
            ``width_multiplier`` that it names as parameters. Not needed for mlp, resnet18, vgg16.
        what: name of the file, for messages.

    Raises:
        InputError: a builder is needed, or the tensors do not fit the network.
    """
    metadata = stored.metadata
    try:
        if metadata["schema"] != _SCHEMA:
            raise InputError(f"{what}: written by another version of rsas")
        shape = None if metadata["input_shape"] is None else tuple(metadata["input_shape"])
        classes, width = metadata["num_classes"], float(metadata["width"])
        if builder is None:
            most = len(stored.declared)
            model = _built_in(metadata["config"], shape, classes, width, most, what)
        else:
            model = inner(models.build_with(builder, "builder", shape, classes, width=width))
            for name, tensor in model.state_dict(keep_vars=True).items():
                if name in stored.declared and not is_lazy(tensor):  # shared tensors stay shared
                    tensor.data = tensor.data.to(stored.declared[name].dtype)
        # A network on meta takes the tensors over; so nothing is allocated for a bad file.
        # The declared tensors come first: a misfit is refused before anything is unpacked.
        model.load_state_dict(stored.declared, assign=builder is None)
        model.load_state_dict(stored.unpack(), assign=builder is None)
    except _MISFITS as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{what}: does not fit its network: {_two_lines(error)}") from None
    return model.requires_grad_(False).eval()


def _built_in(
    values: dict[str, Any] | None,
    shape: tuple[int, ...] | None,
    classes: int | None,
    width: float,
    most: int,
    what: str,
) -> nn.Module:
    """Return a network of rsas on the device meta, with at most ``most`` hidden layers.

    The limit exists because modules take time and memory on meta, too.
    """
    named = None if values is None else values.get("model")
    if values is None or named is None or ":" in str(named):
        made_by = f"made by {named!r}" if named else "not one of rsas"
        raise InputError(
            f"{what}: its network is {made_by}, and code that a file names is not run; pass "
            "builder=, the function that makes it"
        )
    config = TrainConfig.from_dict(values)
    if shape is None or classes is None:
        raise InputError(f"{what}: names no input shape or number of classes")
    if len(config.hidden) > most:
        raise ValueError(f"{len(config.hidden)} hidden layers, but {most} tensors")
    with torch.device("meta"):  # draws no random numbers
        return models.build(config, shape, classes, width=width)


def _plain(model: nn.Module) -> nn.Module:
    """Return a copy on the CPU, in eval mode, without gradients, with its masks folded in."""
    unwrapped = inner(model)
    with torch.no_grad():
        for module in unwrapped.modules():
            for hook in pruners(module):
                hook(module, ())  # what a pass computed with gradients cannot be copied
    copied = copy.deepcopy(unwrapped).cpu().requires_grad_(False).eval()
    for module in copied.modules():
        for hook in pruners(module):
            name = hook._tensor_name
            mask = getattr(module, f"{name}_mask") != 0
            prune.remove(module, name)
            _switch_off(getattr(module, name), mask)
        if isinstance(module, nn.MultiheadAttention):
            unfollow(module)
    return copied


def _switch_off(weight: Tensor, mask: Tensor) -> None:
    """Set weights to +0.0 where the mask is off; a product would give -0.0, or keep NaN."""
    weight.data.masked_fill_(~mask.to(weight.device, torch.bool), 0)


def _two_lines(error: Exception) -> str:
    """Return two lines of a message as one, since torch's first line only announces the second."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) or type(error).__name__
