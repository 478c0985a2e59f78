"""Note in the study when the process that runs a sweep began, and its progress."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence

from rsas.errors import Halted
from rsas.follower import Follower
from rsas.records import TrialRecord
from rsas.sweep.study.launch import Launch
from rsas.sweep.study.study import Study

__all__ = ["LaunchLog"]

_NOTE_SECONDS = 60.0  # between notes; a kill may lose this much of the recorded time


class LaunchLog(Follower):
    """The notes of one launch in the study, from its beginning on.

    The wall clock is read once. All later times come from a clock that cannot be set. So changes of
    the machine's time do not change the hours of a sweep.

    Args:
        study: of the sweep; stores the notes.
        slots: returns the number of trials that may run at once.
        clock: returns seconds since an arbitrary moment, and never goes back.
        wall: returns seconds since 1970.
    """

    def __init__(
        self,
        study: Study,
        slots: Callable[[], int],
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._study, self._slots, self._clock = study, slots, clock
        self._index = len(study.launches())
        self._origin = wall() - clock()
        self._reported = self._noted = began = self._now()
        self._launch = Launch(began=began, failures=study.ended()["failed"])
        self.save()

    def rows(self, number: int, rows: Sequence[dict[str, float]]) -> None:
        seconds = sum(row["seconds"] for row in rows)
        now, launch = self._now(), self._launch
        first = launch.first or now - seconds  # start of the reported epochs
        since = self._reported if launch.first else first
        self._launch = dataclasses.replace(
            launch,
            first=first,
            slot_seconds=launch.slot_seconds + self._slots() * (now - since),
            trained=launch.trained + seconds,
        )
        self._reported = now
        self.tick()

    def end(self, trial: TrialRecord, trials: Sequence[TrialRecord]) -> None:
        self.save()

    def cut_off(self, device_seconds: float) -> None:
        total = self._launch.cut_off + device_seconds
        self._launch = dataclasses.replace(self._launch, cut_off=total)
        self.save()

    def tick(self) -> None:
        if self._now() > self._noted + _NOTE_SECONDS:
            self.save()

    def save(self) -> None:
        """Note the progress of the launch in the study."""
        self._noted = self._now()
        self._launch = dataclasses.replace(self._launch, last=self._noted)
        with contextlib.suppress(Halted):  # the next call that needs the study reports it
            self._study.note_launch(self._index, self._launch)

    def _now(self) -> float:
        return self._origin + self._clock()
