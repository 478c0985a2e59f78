"""Drive a training loop of the user's own epoch by epoch, as ``rsas.trainer.Trainer``."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any, Literal

import torch

from rsas.config import LoopConfig
from rsas.errors import InputError
from rsas.loop import Loop, Run
from rsas.userfile import users_code

__all__ = ["LoopTrainer"]

_JOIN_SECONDS = 10.0  # for which a loop that is stopped may run its own clean-up


class _Stopped(BaseException):
    """Raised within a loop that is to end; no ``except Exception`` of the loop catches it."""


class LoopTrainer:
    """A run of a loop, with the interface of one Trainer.

    The loop keeps the flow of control: it calls ``run.epochs()``. So it runs in a thread of its
    own, which waits between two epochs. One of both threads runs at a time.

    Args:
        loop: the training loop.
        config: pruning, epochs, seed, device and parameters.
        objectives: columns that each row needs.

    Raises:
        InputError: this machine lacks the device.
    """

    def __init__(self, loop: Loop, config: LoopConfig, objectives: Sequence[str]) -> None:
        self.config = config
        self.device = torch.device("cpu")
        """Device to which checkpoints are read; each object moves its own state."""
        self._loop = loop
        self._run = Run(config, objectives=objectives, on_epoch=self._wait)
        self._thread: threading.Thread | None = None
        self._commands: SimpleQueue[Literal["continue", "stop"]] = SimpleQueue()
        self._events: SimpleQueue[BaseException | dict[str, float] | None] = SimpleQueue()

    @property
    def epoch(self) -> int:
        """Number of epochs trained."""
        return len(self._run.history)

    @property
    def history(self) -> list[dict[str, float]]:
        """The rows of all epochs so far."""
        return self._run.history

    def run_epoch(self) -> dict[str, float]:
        """Let the loop train one epoch.

        Returns:
            What the loop reported, and the columns that rsas adds (``Run.report``).

        Raises:
            InputError: the loop does not use its run as described there.
            Exception: any error of the loop.
        """
        row = self._continue()
        if row is None:
            raise InputError("the loop returned before run.epochs() ended")
        return row

    def state_dict(self) -> dict[str, Any]:
        """Return the state between two epochs: plain types and tensors."""
        return self._run.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore ``state_dict()`` of a run of the same loop."""
        self._run.load_state_dict(state)

    def final_state(self) -> dict[str, Any]:
        """Let the loop return, and return its network, as ``Trainer.final_state``.

        Raises:
            Exception: any error of the loop after its last epoch.
        """
        self._continue()
        return self._run.final_state()

    def close(self) -> None:
        """End the thread of a loop that waits between two epochs."""
        if self._thread is not None and self._thread.is_alive():
            self._commands.put("stop")
            self._thread.join(_JOIN_SECONDS)

    def _continue(self) -> dict[str, float] | None:
        """Run the loop up to the end of its next epoch; return the row, or None at its end."""
        with self._run.generators.active():
            if self._thread is None:
                # A daemon, since a loop that hangs must not hold the process.
                self._thread = threading.Thread(target=self._main, name="loop", daemon=True)
                self._thread.start()
            else:
                self._commands.put("continue")
            event = self._events.get()
        if isinstance(event, BaseException):
            raise event
        return event

    def _main(self) -> None:
        event: BaseException | None = None
        try:
            with users_code():
                self._loop(self._run)
                self._run.finish()
        except BaseException as error:
            event = error
        self._events.put(event)

    def _wait(self, row: dict[str, float]) -> None:
        """Pass a row on, and wait in the loop's thread for the next epoch."""
        self._events.put(row)
        if self._commands.get() == "stop":
            raise _Stopped
