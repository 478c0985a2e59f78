"""Where a trial keeps its checkpoints and history: a folder named after its identity.

Whoever runs the trial, this process or the next one, finds them there by name.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # histories are read without torch
    import torch

__all__ = ["TrialFolder"]

_KEPT = 2  # the newest checkpoint may be damaged


class TrialFolder:
    """The folder of one trial; it is made when something is written."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def save(self, epoch: int, state: dict[str, Any]) -> None:
        """Write a checkpoint; a reader sees the whole file or none."""
        import torch

        self._path.mkdir(parents=True, exist_ok=True)
        target = self._path / f"checkpoint-{epoch:06d}.pt"
        partial = target.with_suffix(f".{os.getpid()}.partial")
        torch.save(state, partial)
        partial.replace(target)
        for old in self._checkpoints()[_KEPT:]:
            old.unlink(missing_ok=True)

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """The newest checkpoint that can be read, or None.

        A damaged one is kept aside as ``.damaged``.
        """
        import torch

        for path in self._checkpoints():
            try:
                state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
            except Exception:  # torch raises many kinds for damaged files
                path.replace(path.with_suffix(".damaged"))
            else:
                return state
        return None

    def append(self, row: dict[str, float]) -> None:
        """Add a row of the history, and who computed it."""
        self._path.mkdir(parents=True, exist_ok=True)
        line = json.dumps({**row, "pid": os.getpid()})
        with self._history.open("a+", encoding="utf-8") as file:
            file.seek(0)
            cut_off = not (file.read() or "\n").endswith("\n")  # by a kill; spoil no other line
            file.write("\n" * cut_off + line + "\n")

    def rows(self) -> list[dict[str, float]]:
        """The history: one row an epoch, as last computed, without a line that was cut off."""
        rows: dict[float, dict[str, float]] = {}
        if self._history.exists():
            for line in self._history.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(line)
                except ValueError:  # cut off
                    continue
                row.pop("pid", None)
                rows[row["epoch"]] = row
        return [rows[epoch] for epoch in sorted(rows)]

    def set_error(self, text: str) -> None:
        """Keep the traceback of an error."""
        self._path.mkdir(parents=True, exist_ok=True)
        (self._path / "error.txt").write_text(text, encoding="utf-8")

    def error(self) -> str:
        """The last traceback, or an empty text."""
        path = self._path / "error.txt"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    @property
    def _history(self) -> Path:
        return self._path / "history.jsonl"

    def _checkpoints(self) -> list[Path]:
        """Newest first."""
        return sorted(self._path.glob("checkpoint-*.pt"), reverse=True)
