"""Tune's search algorithm: hands out what the book still lacks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from rsas.records import metrics_of
from rsas.records import trial_id as name_of
from rsas.search.book import Book
from rsas.search.experiment import Budget
from rsas.search.trainable import FAILED

__all__ = ["BookSearcher"]


class BookSearcher(Searcher):
    """First the trials the book has as running with nobody running them, then new ones.

    Args:
        book: asked for suggestions and told the results.
        budget: what the book is to hold in the end; failures before this launch do not count.
        slots: trials that may run at once.
        on_begin: called with a trial's number when it is handed out.
        on_row: called with a trial's number and each row of its history.
        on_end: called with a trial's number when the book has been told its end.
        reason: why a trial failed, by its number.
    """

    def __init__(
        self,
        book: Book,
        budget: Budget,
        *,
        slots: int,
        on_begin: Callable[[int], None],
        on_row: Callable[[int, dict[str, float]], None],
        on_end: Callable[[int], None],
        reason: Callable[[int], str],
    ) -> None:
        super().__init__()
        self._book, self._budget, self._slots = book, budget, slots
        self._on_begin, self._on_row, self._on_end = on_begin, on_row, on_end
        self._reason = reason
        self._failed_before = book.ended()["failed"]
        self._orphans = deque(book.unfinished())
        self._running: dict[str, int] = {}  # Tune's id of a trial -> its number in the book
        self._epochs: dict[int, int] = {}  # number -> epochs of a whole training

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        """Objectives are the book's; Tune's metric and mode are not used."""
        return True

    def suggest(  # type: ignore[override]
        self, trial_id: str
    ) -> dict[str, Any] | str | None:
        """A trial to run, None while there is none to begin, or FINISHED."""
        if len(self._running) >= self._slots:
            return None
        ended = self._book.ended()
        lacking = self._budget.trials - ended["complete"] - len(self._running)
        if ended["failed"] - self._failed_before >= self._budget.failures:
            lacking = 0
        if lacking <= 0:
            return None if self._running else str(Searcher.FINISHED)
        number = self._orphans.popleft() if self._orphans else self._book.begin()
        try:
            config = self._book.config(number)
        except Exception as error:  # of the space, which is the user's
            self._on_begin(number)
            self._book.fail(number, f"the search space: {type(error).__name__}: {error}")
            self._on_end(number)
            return self.suggest(trial_id)
        self._running[trial_id] = number
        self._epochs[number] = config.epochs
        self._on_begin(number)
        return {"trial": name_of(number), "train": config.to_dict()}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Tune has a result that is not a trial's last."""
        self._on_row(self._running[trial_id], metrics_of(result))

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tune ended a trial."""
        number = self._running.pop(trial_id)
        if error or result is None:
            self._book.fail(number, self._reason(number))
        elif FAILED in result:
            self._book.fail(number, result[FAILED])
        else:
            metrics = metrics_of(result)
            self._on_row(number, metrics)
            if metrics["epoch"] < self._epochs[number]:
                return  # Tune is ending; the book still has it as running, for a resume
            self._book.complete(number, metrics)
        self._on_end(number)

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher into its own files, which rsas never reads."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the book is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the book is the state."""
