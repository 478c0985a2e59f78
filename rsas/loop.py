"""Train with a loop of the user's own: parameters, masks, checkpoints and results of one run."""

from __future__ import annotations

import math
import numbers
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from rsas.build import resolve_device
from rsas.columns import Column, parse
from rsas.config import LoopConfig, Pruning
from rsas.errors import InputError, NonFiniteLoss
from rsas.pruning import method_of, target_of
from rsas.sparse import Sparsifier, prunable
from rsas.sparse.modules import inner
from rsas.states import DefaultGenerators, restore_state, state_of
from rsas.userfile import users_code

__all__ = ["Loop", "LoopResult", "Run", "run", "run_loop", "set_up"]

_MEASURED = ("epoch", "sparsity", "churn", "exploration", "seconds")
"""The columns of a row that rsas adds."""


class Params(dict[str, Any]):
    """The parameters of a loop; a missing one is an error of the user, in one line."""

    def __missing__(self, name: str) -> Any:
        known = ", ".join(self) or "none"
        raise InputError(
            f"run.params has no {name!r}, only {known}; return it from the space, or set it with "
            f"--set {name}=VALUE"
        )


class Run:
    """One run of a training loop.

    The loop uses its run as follows::

        def train(run):
            model, optimizer = ...
            sparsifier = run.sparsify(model, optimizer, steps_per_epoch=len(loader))
            run.track(model=model, optimizer=optimizer)
            for epoch in run.epochs():
                for x, y in loader:
                    loss = ...
                    optimizer.zero_grad()
                    loss.backward()
                    sparsifier.observe(loss)
                    optimizer.step()
                    sparsifier.step()
                run.report(val_accuracy=...)

    Args:
        config: pruning, epochs, seed, device and parameters.
        objectives: columns that each row needs.
        on_epoch: called with each row of the history, between two epochs.

    Attributes:
        params: what the search space set, without the fields of ``rsas.Pruning``.
        seed: of the run. Before the loop begins, it seeds the default generators of Python, NumPy
            and torch.
        total_epochs: of the whole training.
        device: where the run trains, by the resources of its trial.
        history: the rows of all epochs so far.
        input_shape: of one input of the model; None unless the model takes one float tensor.
        generators: the default generators of the run, which its caller activates.
    """

    def __init__(
        self,
        config: LoopConfig,
        *,
        objectives: Sequence[str] = (),
        on_epoch: Callable[[dict[str, float]], None] | None = None,
    ) -> None:
        self.params: Mapping[str, Any] = Params(config.params)
        self.seed = config.seed
        self.total_epochs = config.epochs
        self.device = resolve_device(config.device)
        self.history: list[dict[str, float]] = []
        self.input_shape: tuple[int, ...] | None = None
        self.generators = DefaultGenerators(_seeds(config.seed)[0], self.device)
        self._config, self._objectives, self._on_epoch = config, objectives, on_epoch
        self._sparsifier: Sparsifier | None = None
        self._steps_per_epoch = 0
        self._layers: dict[str, int] = {}  # of the model given to ``sparsify``
        self._tracked: dict[str, Any] = {}
        self._saved: dict[str, Any] | None = None  # a state until the epochs begin
        self._has_begun = False
        self._reported: dict[str, float] | None = None  # in this epoch
        self._masks: list[Tensor] = []  # at the beginning of this epoch
        self._started = 0.0  # time of that beginning

    def sparsify(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, *, steps_per_epoch: int
    ) -> Sparsifier:
        """Put masks of this run's method and sparsity on a model.

        Args:
            model: on its device already.
            optimizer: of all weights that are pruned.
            steps_per_epoch: steps of the optimizer in an epoch, at least 1. Where gradients are
                accumulated, there are fewer steps than batches.

        Returns:
            The sparsifier, which counts its own steps. With ``method="dense"`` it changes nothing.

        Raises:
            InputError: the target does not fit the model, the optimizer lacks a weight, or an
                argument is not valid.
        """
        if self._sparsifier is not None:
            raise InputError("run.sparsify: called twice; a run prunes one model")
        if not isinstance(steps_per_epoch, int) or steps_per_epoch < 1:
            raise InputError(
                f"run.sparsify: steps_per_epoch={steps_per_epoch!r}: expected at least 1"
            )
        draws = torch.Generator(self.device).manual_seed(_seeds(self.seed)[1])
        self._sparsifier = Sparsifier(
            model,
            optimizer,
            method_of(self._config),
            target_of(self._config),
            generator=draws,
            epochs=self._config.epochs,
            steps_per_epoch=steps_per_epoch,
        )
        self._steps_per_epoch = steps_per_epoch
        self._layers = _layers(model)
        self.track(sparsifier=self._sparsifier, mask_draws=draws)
        return self._sparsifier

    def track(self, **objects: Any) -> None:
        """Name the objects that checkpoints contain.

        They are restored when ``epochs`` begins. The default generators of Python, NumPy and torch
        are in each checkpoint without being named.

        Args:
            objects: anything with ``state_dict`` and ``load_state_dict``, such as a model, an
                optimizer, a scheduler or a GradScaler; a ``torch.Generator``, a ``random.Random``
                or a ``numpy.random.Generator``; or a DataLoader, whose generators are kept.
                ``model`` is the network that is exported.

        Raises:
            InputError: an object has no state, a name is used twice, or the epochs have begun.
        """
        if self._has_begun:
            raise InputError("run.track: call it before run.epochs(), which restores the objects")
        for name, value in objects.items():
            if self._tracked.get(name, value) is not value:
                raise InputError(f"run.track: {name!r} names two objects; use another name")
            state_of(value, name)
            self._tracked[name] = value

    def epochs(self) -> Iterator[int]:
        """Yield the numbers of the epochs to train, from 0; after a resume those that are left.

        Raises:
            InputError: the loop has not called ``sparsify`` or ``track``; or an epoch ended
                without ``report``, or without as many steps as ``sparsify`` was given.
        """
        self._begin()
        while len(self.history) < self._config.epochs:
            self._masks = self._sparsifier.masks() if self._sparsifier else []
            self._started = time.perf_counter()
            yield len(self.history)
            self._end_epoch()

    def report(self, **metrics: Any) -> None:
        """Report the results of an epoch, once, before the next epoch begins.

        rsas adds the columns epoch, sparsity, sparsity/LAYER, churn, exploration and seconds.

        Args:
            metrics: numbers, or tensors of one number. All objectives are among them, but those
                that rsas adds.

        Raises:
            InputError: a name or value is not valid, or an objective is missing.
            NonFiniteLoss: an objective is NaN or infinite.
        """
        epoch = len(self.history) + 1
        if not self._has_begun or epoch > self._config.epochs:
            raise InputError("run.report: call it within 'for epoch in run.epochs()'")
        if self._reported is not None:
            raise InputError(f"run.report: called twice in epoch {epoch}; report each epoch once")
        row = {name: _number(name, value) for name, value in metrics.items()}
        for name in self._objectives:
            if name not in row and name not in _MEASURED:
                raise InputError(
                    f"run.report: epoch {epoch} lacks the objective {name!r}; reported are "
                    f"{', '.join(row) or 'no metrics'}"
                )
            if not math.isfinite(row.get(name, 0.0)):
                raise NonFiniteLoss(f"{name} became {row[name]} in epoch {epoch}")
        self._reported = row

    @property
    def model(self) -> nn.Module:
        """The network that is exported.

        Raises:
            InputError: the loop does not track it.
        """
        model = self._tracked.get("model")
        if not isinstance(model, nn.Module):
            raise InputError(
                "run.track: name the network and all else that a resume needs before run.epochs(), "
                "as in run.track(model=model, optimizer=optimizer)"
            )
        return model

    def finish(self) -> None:
        """Check that the loop has trained all epochs, after it has returned.

        Raises:
            InputError: the loop returned before the last epoch.
        """
        epochs = self._config.epochs
        if self._reported is not None and len(self.history) == epochs - 1:
            self._end_epoch()  # the loop left run.epochs() in the last epoch, by a break
        if len(self.history) < epochs:
            when = "before" if self._has_begun else "without run.epochs(), before"
            raise InputError(
                f"the loop returned {when} epoch {len(self.history) + 1} of {epochs} was done; "
                "iterate over run.epochs() to its end"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the state between two epochs: plain types and tensors."""
        if self._saved is not None:
            return self._saved
        return {
            "history": self.history,
            "input_shape": self.input_shape,
            "generators": self.generators.state_dict(),
            "tracked": {name: state_of(value, name) for name, value in self._tracked.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore ``state_dict()`` of a run of the same loop, once its epochs begin."""
        self._saved = state
        self.history = list(state["history"])
        self.input_shape = None if state["input_shape"] is None else tuple(state["input_shape"])

    def final_state(self) -> dict[str, Any]:
        """Return the network alone, as ``Trainer.final_state``.

        Raises:
            InputError: weights that are off are not zero.
        """
        layers: dict[str, Any] = {}
        if self._sparsifier is not None:
            self._sparsifier.sparsity()
            layers = self._sparsifier.state_dict()["layers"]
        return {
            "config": self._config.to_dict(),
            "epoch": len(self.history),
            "input_shape": None if self.input_shape is None else list(self.input_shape),
            "num_classes": None,
            "model": inner(self.model).state_dict(),
            "masks": {name: layer["mask"] for name, layer in layers.items()},
            "measures": {
                name: layer["measure"]
                for name, layer in layers.items()
                if layer["measure"] is not None
            },
        }

    def attach(self) -> nn.Module:
        """Return the model in eval mode, with its masks as those of ``torch.nn.utils.prune``."""
        if self._sparsifier is not None:
            self._sparsifier.attach()
        return self.model.eval()

    def _begin(self) -> None:
        """Check the parts of the loop, and restore them."""
        if self._has_begun:
            raise InputError("run.epochs: called twice; iterate over it once")
        if self._sparsifier is None and self._config.method != "dense":
            raise InputError(
                f"run.epochs: call run.sparsify first, as method={self._config.method!r} prunes"
            )
        self._check_layers("run.track: the layers of 'model'")
        self._has_begun = True
        if self._saved is not None:
            saved, generators = self._saved["tracked"], self._saved["generators"]
            self._saved = None
            if saved.keys() != self._tracked.keys():
                raise InputError(
                    f"run.track: the checkpoint has {', '.join(sorted(saved))}, but the loop "
                    f"tracks {', '.join(sorted(self._tracked))}"
                )
            for name, value in self._tracked.items():
                restore_state(value, saved[name], name)
            self.generators.load_state_dict(generators)  # last: the loop's own set-up uses them
        if self.input_shape is None:
            self._note_input()

    def _note_input(self) -> None:
        """Note the shape of one input at the first pass, if the model takes one float tensor."""

        def note(_: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
            handle.remove()
            x = args[0] if len(args) == 1 and not options else None
            if isinstance(x, Tensor) and x.is_floating_point():
                self.input_shape = tuple(x.shape[1:])

        handle = inner(self.model).register_forward_pre_hook(note, with_kwargs=True)

    def _end_epoch(self) -> None:
        epoch = len(self.history) + 1
        if self._reported is None:
            raise InputError(f"epoch {epoch} ended without run.report(); report each epoch once")
        row = {"epoch": float(epoch), **self._reported}
        self._reported = None
        if self._sparsifier is None:
            row |= {"sparsity": 0.0, "churn": 0.0, "exploration": 0.0}
        else:
            self._check_layers(f"epoch {epoch}: the layers of 'model'")
            self._check_steps(epoch, self._sparsifier.steps)
            overall, by_layer = self._sparsifier.sparsity()
            row |= {
                "sparsity": overall,
                **{f"sparsity/{name}": value for name, value in by_layer.items()},
                "churn": self._sparsifier.churn(self._masks),
                "exploration": self._sparsifier.exploration(),
            }
        row["seconds"] = time.perf_counter() - self._started
        self.history.append(row)
        if self._on_epoch is not None:
            self._on_epoch(row)

    def _check_layers(self, which: str) -> None:
        if self._sparsifier is not None and _layers(self.model) != self._layers:
            raise InputError(
                f"{which} are not those that run.sparsify was given; change the model before "
                "run.sparsify, and track the same one"
            )

    def _check_steps(self, epoch: int, steps: int) -> None:
        done = steps - (epoch - 1) * self._steps_per_epoch
        if done == 0:
            raise InputError(
                f"epoch {epoch}: sparsifier.step() was not called; call it after each "
                "optimizer.step()"
            )
        if done != self._steps_per_epoch:
            raise InputError(
                f"epoch {epoch}: sparsifier.step() was called {done} times, but run.sparsify has "
                f"steps_per_epoch={self._steps_per_epoch}; give it the steps of the optimizer"
            )


Loop = Callable[[Run], None]
"""A training loop of the user's own."""


@dataclass(frozen=True)
class LoopResult:
    """A finished run of a loop."""

    config: LoopConfig
    history: pd.DataFrame  # a row per epoch: what the loop reported, and the columns of rsas
    model: nn.Module  # the tracked model with torch.nn.utils.prune masks, in eval mode


def run(
    loop: Loop,
    params: Mapping[str, Any] | None = None,
    *,
    epochs: int = 10,
    pruning: Pruning | None = None,
    seed: int = 0,
    device: str = "auto",
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> LoopResult:
    """Run a training loop in this process, without Ray.

    Args:
        loop: the loop.
        params: JSON values that the loop reads as ``run.params``.
        epochs: of the training, at least 1.
        pruning: method, sparsity and options; by default those of ``rsas.Pruning()``.
        seed: of the run.
        device: auto (cuda where there is one), cpu, cuda or cuda:N.
        on_epoch: called with each row of the history.

    Raises:
        InputError: an argument is not valid, or the loop does not use its run as described there.
        NonFiniteLoss: a reported objective became NaN or infinite.
        Exception: any error of the loop.
    """
    fields = (pruning or Pruning()).to_dict()
    config = LoopConfig(**fields, epochs=epochs, seed=seed, device=device, params=params or {})
    return run_loop(loop, config, on_epoch=on_epoch)


def run_loop(
    loop: Loop,
    config: LoopConfig,
    *,
    objectives: Sequence[str] = (),
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> LoopResult:
    """Run a training loop with a configuration, as ``run``.

    Args:
        loop: the loop.
        config: pruning, epochs, seed, device and parameters.
        objectives: columns that each row needs.
        on_epoch: called with each row of the history.
    """
    one = Run(config, objectives=objectives, on_epoch=on_epoch)
    with one.generators.active(), users_code():
        loop(one)
        one.finish()
    history = pd.DataFrame(one.history).astype({"epoch": int})
    return LoopResult(config, history, one.attach())


class _SetUpDone(BaseException):
    """Raised in a loop where its epochs would begin."""


class _SetUpRun(Run):
    def epochs(self) -> Iterator[int]:
        self._begin()
        raise _SetUpDone


def set_up(loop: Loop, config: LoopConfig) -> Run:
    """Run a loop up to its first epoch, to check it or to use its model.

    Raises:
        InputError: the loop does not use its run as ``Run`` describes.
        Exception: any error of the loop.
    """
    one = _SetUpRun(config)
    try:
        with one.generators.active(), users_code():
            loop(one)
        one.finish()
    except RuntimeError as error:
        if not isinstance(error.__cause__, _SetUpDone):
            raise
    return one


def _seeds(seed: int) -> tuple[int, int]:
    """Return the seeds of the default generators, and of the draws of masks.

    Masks drawn with the seed of the weights would switch off all large positive weights.
    """
    default, draws = np.random.SeedSequence(seed).generate_state(2).tolist()
    return default, draws


def _layers(model: nn.Module) -> dict[str, int]:
    """Return the layers that can be pruned, with the identities of their parameters."""
    return {layer.name: id(layer.parameter) for layer in prunable(model)}


def _number(name: str, value: Any) -> float:
    """Return a reported value as a number.

    Raises:
        InputError: the name is reserved, or the value is not one number.
    """
    if not re.fullmatch(r"[\w .:/-]{1,250}", name):  # MLflow refuses other names
        raise InputError(f"run.report: {name!r}: expected a name of letters and digits")
    if name in _MEASURED or parse(name) != Column(name):
        raise InputError(f"run.report: rsas measures {name!r} itself; report another name")
    if isinstance(value, (Tensor, np.ndarray)) and math.prod(value.shape) == 1:
        value = value.item()
    if not isinstance(value, numbers.Real):
        raise InputError(f"run.report: {name}={value!r}: expected a number")
    return float(value)
