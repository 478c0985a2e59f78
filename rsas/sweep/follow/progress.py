"""The progress of a running sweep: a live table on a terminal, elsewhere a line per trial."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rsas.follower import Follower
from rsas.pareto import front, hypervolume
from rsas.records import Objective, TrialRecord, clock, trial_id
from rsas.redact import redact

__all__ = ["MirrorProgress", "SweepProgress", "front_table"]

_PARAM_COLUMNS = 4  # more do not fit beside the objectives and the bar
_FRONT_ROWS = 12  # of the front while the sweep runs
_BAR = 10
_MIRROR_BAR = 40
_NOTE_SECONDS = 10.0  # between lines on the progress of MLflow's mirror
_SILENT = 60.0  # seconds without a report after which the table says so


class MirrorProgress:
    """The progress of MLflow's mirror: a bar on a terminal, elsewhere lines.

    As a context manager, the object draws its bar itself. A running ``SweepProgress`` draws the bar
    of its own one.

    Args:
        console: shows the bar.
        say: prints a line.
    """

    def __init__(self, console: Console, say: Callable[[str], None]) -> None:
        self._console, self._say = console, say
        self._done = self._total = 0
        self._noted_at = 0.0
        self._live = Live(console=console, get_renderable=lambda: self.bar() or "", transient=True)

    def __enter__(self) -> MirrorProgress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` trials are logged."""
        self._done, self._total = done, total
        if done == 0:  # a catch-up begins
            self._noted_at = time.monotonic()
        if self._console.is_terminal or done == total:
            return
        if time.monotonic() > self._noted_at + _NOTE_SECONDS:
            self._noted_at = time.monotonic()
            self._say(f"MLflow: {done} of {total} trials logged")

    def bar(self) -> Table | None:
        """Return the bar; None if nothing is left to log."""
        if self._done >= self._total:
            return None
        line = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=self._total, completed=self._done, width=_MIRROR_BAR)
        line.add_row("MLflow:", bar, f"{self._done} of {self._total} trials logged")
        return line


class SweepProgress(Follower):
    """The progress of a sweep on the console; a context manager.

    Args:
        console: shows the progress.
        name: of the sweep.
        asked: number of trials to complete.
        epochs: of one complete trial.
        objectives: of the sweep.
        trials: those in the study at the start.
    """

    def __init__(
        self,
        console: Console,
        *,
        name: str,
        asked: int,
        epochs: int,
        objectives: Sequence[Objective],
        trials: Sequence[TrialRecord],
    ) -> None:
        self._console = console
        self._name, self._asked, self._epochs = name, asked, epochs
        self._objectives = objectives
        self._front = front(trials, objectives)
        self._begun = len(trials)
        self._ended: Counter[str] = Counter()
        self._spared = 0.0  # epochs that early stopping has saved so far
        for trial in trials:
            self._count(trial)
        self._running: dict[int, dict[str, float]] = {}
        self._reported: dict[int, float] = {}  # number of a trial -> time of its last report
        self._epochs_trained = 0
        self._began: float | None = None
        self.mirror = MirrorProgress(console, self.note)
        self._live = Live(
            console=console, get_renderable=self._render, refresh_per_second=4, transient=True
        )

    def __enter__(self) -> SweepProgress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def begin(self, trial: TrialRecord) -> None:
        now = time.monotonic()
        if self._began is None:
            self._began = now
        self._reported[trial.number] = now
        self._running[trial.number] = {}

    def rows(self, number: int, rows: Sequence[dict[str, float]]) -> None:
        self._reported[number] = time.monotonic()
        self._running[number] = rows[-1]
        self._epochs_trained += len(rows)

    def note(self, line: str) -> None:
        self._console.print(redact(f"note: {line}"), style="yellow", markup=False)

    def end(self, trial: TrialRecord, trials: Sequence[TrialRecord]) -> None:
        self._running.pop(trial.number, None)
        self._begun = len(trials)
        self._count(trial)
        if trial.state == "complete":
            self._front = front([*self._front, trial], self._objectives)
        if self._console.is_terminal:
            return
        result = trial.reason or ", ".join(f"{k} {v:.4f}" for k, v in trial.objectives.items())
        if trial.state == "pruned":
            result = f"stopped after {trial.epochs:.0f} epochs"
        if trial.same_as:
            result += f", the same configuration as {trial.same_as}"
        self._console.print(
            f"{trial.trial_id} {trial.state}: {result} ({self._summary()})", markup=False
        )

    def _count(self, trial: TrialRecord) -> None:
        self._ended[trial.state] += trial.state != "running"
        if trial.state == "pruned":
            self._spared += self._epochs - trial.epochs

    def _done(self) -> int:
        return self._ended["complete"] + self._ended["pruned"]

    def _summary(self) -> str:
        parts = [f"{self._done()} of {self._asked} trials done"]
        if pruned := self._ended["pruned"]:
            parts.append(f"{pruned} of them stopped early")
        if failed := self._ended["failed"]:
            parts.append(f"{failed} failed")
        if self._running:
            parts.append(f"{len(self._running)} running")
        parts.append(f"hypervolume {hypervolume(self._front, self._objectives):.4f}")
        left = self._seconds_left()
        if left is not None and self._done() < self._asked:
            parts.append(f"about {clock(left)} left")
        return ", ".join(parts)

    def _seconds_left(self) -> float | None:
        """Estimate the remaining seconds from the rate of epochs so far; None before the first."""
        if self._began is None or not self._epochs_trained:
            return None
        in_progress = sum(row.get("epoch", 0) for row in list(self._running.values()))
        per_trial = self._epochs - self._spared / (self._begun or 1)  # the mean, with early stops
        missing = (self._asked - self._done()) * per_trial - in_progress
        return max(missing, 0) * (time.monotonic() - self._began) / self._epochs_trained

    def _render(self) -> Table:
        done, running = self._done(), list(self._running.items())
        share = done + sum(row.get("epoch", 0) / self._epochs for _, row in running)
        lines = Table.grid(expand=True)
        lines.add_row(Text.assemble((self._name, "bold"), ": ", self._summary()))
        lines.add_row(ProgressBar(total=self._asked, completed=share))
        for number, row in running:
            epoch = f"epoch {row['epoch']:.0f}/{self._epochs}" if row else "starting"
            values = "".join(f", {o.name} {row[o.name]:.4f}" for o in self._objectives if row)
            silent = time.monotonic() - self._reported[number]
            if silent > _SILENT:
                values += f", no report for {clock(silent)}"
            lines.add_row(Text(f"  {trial_id(number)} {epoch}{values}", style="dim"))
        if bar := self.mirror.bar():
            lines.add_row(bar)
        if members := self._front[-_FRONT_ROWS:]:
            lines.add_row(front_table(members, self._objectives, "front so far"))
        return lines


def front_table(
    members: Sequence[TrialRecord], objectives: Sequence[Objective], title: str
) -> Table:
    """Return a table of a front, with a row per member and a bar for the first objective.

    Each parameter has a column. If they are too many for a terminal, a single column lists them,
    and the caption below the table lists those that all members share.
    """
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("trial")
    for objective in objectives:
        table.add_column(objective.name, justify="right")
    first = objectives[0]
    table.add_column("", no_wrap=True, min_width=_BAR)
    # A parameter such as sparsity may be an objective, too: its column is the value asked for.
    labels = {objective.name: f"{objective.name} asked" for objective in objectives}
    params = list(dict.fromkeys(name for trial in members for name in trial.params))
    rows = [[_short(trial.params.get(name)) for name in params] for trial in members]
    if len(params) <= _PARAM_COLUMNS:
        for name in params:
            table.add_column(labels.get(name, name), justify="right")
    else:
        named = [
            [
                f"{labels.get(name, name)} {cell}"
                for name, cell in zip(params, row, strict=True)
                if cell
            ]
            for row in rows
        ]
        shared = [text for text in named[0] if all(text in row for row in named[1:])]
        if len(members) > 1 and shared:
            caption = f"all with {', '.join(shared)}"
            table.caption, table.caption_justify = Text(caption), "left"
            named = [[text for text in row if text not in shared] for row in named]
        table.add_column("parameters")
        rows = [[", ".join(row)] for row in named]
    values = [trial.objectives[first.name] for trial in members]
    low, high = min([first.worst, *values]), max([first.worst, *values])
    for trial, row in zip(members, rows, strict=True):
        share = (trial.objectives[first.name] - low) / (high - low) if high > low else 0.0
        table.add_row(
            trial.trial_id,
            *[f"{trial.objectives[objective.name]:.4f}" for objective in objectives],
            Text("█" * round(_BAR * share), style="green"),
            *map(Text, row),  # as Text, a choice such as layer[a-b]* is not read as markup
        )
    return table


def _short(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else redact(str(value))
