"""The states of a run's objects and random generators, as plain types and tensors.

Checkpoints are read without running code of the file, so they can hold nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from rsas.errors import InputError, reason_of

__all__ = ["DefaultGenerators", "restore_state", "state_of"]


class DefaultGenerators:
    """The state of Python's, NumPy's and torch's default generators that belongs to one run.

    Runs of one process then do not disturb each other, and each can be resumed.

    Args:
        seed: of all of them, in [0, 2**32).
        device: of the run; on a GPU, its generator is one of them.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._device = device
        self._is_active = False
        self._state: dict[str, Any] = {
            "python": random.Random(seed).getstate(),  # noqa: S311
            "numpy": _plain_numpy(np.random.RandomState(seed).get_state()),
            "torch": torch.Generator().manual_seed(seed).get_state(),
            "cuda": (
                torch.Generator(device).manual_seed(seed).get_state()
                if device.type == "cuda"
                else None
            ),
        }

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let the default generators continue with the run's state; restore theirs afterwards."""
        before = self._read()
        self._write(self._state)
        self._is_active = True
        try:
            yield
        finally:
            self._is_active = False
            self._state = self._read()
            self._write(before)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the run while it is not active."""
        return dict(self._state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore ``state_dict()`` of a run on a device of the same type; active or not."""
        # Generators take their state from the CPU only, but a checkpoint may be on the GPU.
        self._state = {k: v.cpu() if isinstance(v, Tensor) else v for k, v in state.items()}
        if self._is_active:
            self._write(self._state)

    def _read(self) -> dict[str, Any]:
        is_cuda = self._device.type == "cuda"
        return {
            "python": random.getstate(),
            "numpy": _plain_numpy(np.random.get_state()),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(self._device) if is_cuda else None,
        }

    def _write(self, state: Mapping[str, Any]) -> None:
        random.setstate(_as_tuple(state["python"]))
        name, keys, *rest = state["numpy"]
        np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
        torch.set_rng_state(state["torch"])
        if state["cuda"] is not None:
            torch.cuda.set_rng_state(state["cuda"], self._device)


def state_of(value: Any, name: str) -> Any:
    """Return the state of an object that a run tracks: plain types and tensors.

    Args:
        value: has ``state_dict`` and ``load_state_dict``, or is a ``torch.Generator``, a
            ``random.Random``, a ``numpy.random.Generator`` or a DataLoader.
        name: of the object, for messages.

    Raises:
        InputError: the object has no state, or its state holds values of other types.
    """
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, np.random.Generator):
        state: Any = dict(value.bit_generator.state)
    elif hasattr(value, "state_dict") and hasattr(value, "load_state_dict"):
        state = value.state_dict()
    elif isinstance(value, DataLoader):
        state = [generator.get_state() for generator in _generators(value)]
    else:
        raise InputError(
            f"run.track: {name} is a {type(value).__name__}; expected an object with state_dict "
            "and load_state_dict, a DataLoader or a random generator"
        )
    strange = _strange(state)
    if strange is not None:
        raise InputError(
            f"run.track: the state of {name} holds a {type(strange).__name__}; expected numbers, "
            "texts, tensors, lists and dicts of them"
        )
    return state


def restore_state(value: Any, state: Any, name: str) -> None:
    """Restore what ``state_of`` has returned.

    Raises:
        InputError: the state does not fit the object.
    """
    try:
        if isinstance(value, torch.Generator):
            value.set_state(state.cpu())
        elif isinstance(value, random.Random):
            value.setstate(_as_tuple(state))
        elif isinstance(value, np.random.Generator):
            value.bit_generator.state = state
        elif hasattr(value, "load_state_dict"):
            value.load_state_dict(state)
        else:
            for generator, saved in zip(_generators(value), state, strict=True):
                generator.set_state(saved.cpu())
    except (LookupError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"run.track: the checkpoint does not fit {name} ({reason_of(error)})"
        ) from error


def _generators(loader: DataLoader[Any]) -> list[torch.Generator]:
    """Return the generators of a loader and of its samplers, each once."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    holders = (loader, loader.sampler, batch_sampler, getattr(batch_sampler, "sampler", None))
    found = [getattr(holder, "generator", None) for holder in holders]
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())


def _strange(value: Any) -> Any:
    """Return a value within that a checkpoint cannot hold, or None."""
    if value is None or isinstance(value, (bool, int, float, str, Tensor)):
        return None if type(value).__module__ != "numpy" else value
    if isinstance(value, Mapping):
        parts = [*value.keys(), *value.values()]
    elif isinstance(value, (list, tuple)):
        parts = list(value)
    else:
        return value
    return next((s for part in parts if (s := _strange(part)) is not None), None)


def _plain_numpy(state: Any) -> tuple[Any, ...]:
    name, keys, *rest = state
    return (name, keys.tolist(), *rest)


def _as_tuple(state: Any) -> tuple[Any, ...]:
    version, numbers, gauss = state
    return version, tuple(numbers), gauss
