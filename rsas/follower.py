"""The interface of all parts that follow a running sweep: displays, mirrors, files, notes."""

from __future__ import annotations

from collections.abc import Sequence

from rsas.records import TrialRecord

__all__ = ["Follower", "Followers"]


class Follower:
    """A receiver of the events of a sweep, which ignores the events that it does not override.

    All calls come from the driver's thread and delay the sweep, so they must return quickly.
    """

    def begin(self, trial: TrialRecord) -> None:
        """Note that a trial is handed out, or resumed."""

    def rows(self, number: int, rows: Sequence[dict[str, float]]) -> None:
        """Note the epochs that a trial has trained, a row per epoch, at least one."""

    def change(self, number: int) -> None:
        """Note that the study holds something new about a running trial."""

    def end(self, trial: TrialRecord, trials: Sequence[TrialRecord]) -> None:
        """Note that the study holds the end of a trial; ``trials`` are all trials begun so far."""

    def note(self, line: str) -> None:
        """Show the user a message."""

    def cut_off(self, device_seconds: float) -> None:
        """Note that the process of a silent trial is ended, and these seconds of training lost."""

    def tick(self) -> None:
        """Do periodic work; called several times per second.

        Raises:
            Halted: the sweep cannot go on.
        """


class Followers(Follower):
    """Several followers, each of which receives every event, in the given order."""

    def __init__(self, *followers: Follower) -> None:
        self._followers = followers

    def begin(self, trial: TrialRecord) -> None:
        for follower in self._followers:
            follower.begin(trial)

    def rows(self, number: int, rows: Sequence[dict[str, float]]) -> None:
        for follower in self._followers:
            follower.rows(number, rows)

    def change(self, number: int) -> None:
        for follower in self._followers:
            follower.change(number)

    def end(self, trial: TrialRecord, trials: Sequence[TrialRecord]) -> None:
        for follower in self._followers:
            follower.end(trial, trials)

    def note(self, line: str) -> None:
        for follower in self._followers:
            follower.note(line)

    def cut_off(self, device_seconds: float) -> None:
        for follower in self._followers:
            follower.cut_off(device_seconds)

    def tick(self) -> None:
        for follower in self._followers:
            follower.tick()
