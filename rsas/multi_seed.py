"""Train one configuration with several seeds; objectives are means over the seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import torch

from rsas.columns import of_seed, parse
from rsas.trainer import EpochTrainer, Row

__all__ = ["MultiSeedTrainer"]

_WHOLE = ("epoch", "churn", "exploration", "seconds")
"""Columns that have no column for each seed."""


class MultiSeedTrainer:
    """Trainers that differ in their seed, with the interface of one.

    All trainers train one epoch before any trains the next.

    Args:
        trainer_of: returns the trainer of a seed.
        seeds: at least one seed, without repetition.
    """

    def __init__(self, trainer_of: Callable[[int], EpochTrainer], seeds: Sequence[int]) -> None:
        self._trainers = {seed: trainer_of(seed) for seed in seeds}
        self._first = self._trainers[seeds[0]]
        self.history: list[Row] = []

    @property
    def device(self) -> torch.device:
        """Device of all trainers."""
        return self._first.device

    @property
    def epoch(self) -> int:
        """Number of epochs that each trainer has trained."""
        return len(self.history)

    def run_epoch(self) -> Row:
        """Train one epoch with each seed.

        Returns:
            The columns of one trainer as means over the seeds, but ``seconds`` as a sum; and
            ``seedN/NAME`` for the losses, the accuracies and the sparsity of each seed.

        Raises:
            NonFiniteLoss: a loss of one of the seeds became NaN or infinite.
        """
        rows = {seed: trainer.run_epoch() for seed, trainer in self._trainers.items()}
        means = pd.DataFrame(rows.values()).mean()
        row: Row = {str(name): float(value) for name, value in means.items()}
        row["epoch"] = self.epoch + 1
        row["seconds"] = sum(own["seconds"] for own in rows.values())
        row |= {
            of_seed(seed, name): value
            for seed, own in rows.items()
            for name, value in own.items()
            if name not in _WHOLE and not parse(name).layer
        }
        self.history.append(row)
        return row

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all trainers, as ``Trainer.state_dict``."""
        states = {str(seed): trainer.state_dict() for seed, trainer in self._trainers.items()}
        return {"history": self.history, "trainers": states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of all trainers, which must have the same seeds."""
        for seed, trainer in self._trainers.items():
            trainer.load_state_dict(state["trainers"][str(seed)])
        self.history = list(state["history"])

    def final_state(self) -> dict[str, Any]:
        """Return the network of the first seed, as ``Trainer.final_state``."""
        states = [trainer.final_state() for trainer in self._trainers.values()]
        return states[0]

    def close(self) -> None:
        """Close all trainers."""
        for trainer in self._trainers.values():
            trainer.close()
