"""Mirror a sweep in MLflow while the sweep runs, also across outages of the server.

All values come from the study and the trials' histories. So values that MLflow missed are logged
when the server answers again. A separate thread does all of this and never delays the sweep. The
thread also imports mlflow, which takes seconds.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence

from rsas.errors import Halted, LeaseLost, StorageError, first_line
from rsas.follower import Follower
from rsas.records import TrialRecord, trial_id
from rsas.tracking.writer import Say, Source, Writer

__all__ = ["Tracker"]

_RETRY_SECONDS = 10.0  # between attempts to reach a server that does not answer
_PATIENCE_SECONDS = 10.0  # at the end of a sweep, before the user is shown the reason for the delay
_SLOW = (
    "MLflow is slow; all results are stored, and after Ctrl-C 'rsas resume' logs those that MLflow "
    "lacks"
)

_Action = Callable[[Writer], None]


class Tracker(Follower):
    """The mirror of one sweep, on a thread of its own that connects and then catches up.

    Args:
        source: the sweep; its functions are called on the thread.
        say: shows the user one line when the server is lost, and one when the server answers again.
    """

    def __init__(self, source: Source, say: Say) -> None:
        self._source, self._say = source, say
        self._writer: Writer | None = None  # None while the server does not answer
        self._is_lost = False  # the server, as the user has been shown
        self._queue: queue.Queue[_Action | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def begin(self, trial: TrialRecord) -> None:
        self._queue.put(lambda writer: writer.log(trial))

    def rows(self, number: int, rows: Sequence[dict[str, float]]) -> None:
        self._queue.put(lambda writer: writer.log_rows(trial_id(number), rows))

    def end(self, trial: TrialRecord, trials: Sequence[TrialRecord]) -> None:
        self._queue.put(lambda writer: writer.log(trial))
        self._queue.put(lambda writer: writer.log_front(trials))

    def close(self, state: str) -> bool:
        """Log the remaining results and end the parent run.

        Args:
            state: of the sweep: ``finished``, ``failed`` or ``interrupted``. The running trials of
                an interrupted sweep are marked KILLED until the sweep is resumed.

        Returns:
            Whether MLflow has everything; its runs are compared with the study at the end.
        """
        self._queue.put(None)
        patience = threading.Timer(_PATIENCE_SECONDS, self._say, [_SLOW])
        patience.daemon = True
        patience.start()
        try:
            self._thread.join()
            writer = self._writer or Writer(self._source, self._say)
            writer.catch_up()
            writer.end(state)
        except Exception as error:
            self._lost(error)
            return False
        finally:
            patience.cancel()
        return True

    def _work(self) -> None:
        with contextlib.suppress(LeaseLost):  # the driver ends, and shows the reason
            self._write_on()

    def _write_on(self) -> None:
        retry = 0.0
        while True:
            now = time.monotonic()
            if self._writer is None and now >= retry:
                retry = now + _RETRY_SECONDS
                with contextlib.suppress(queue.Empty):  # the study has all queued results
                    while (action := self._queue.get_nowait()) is not None:
                        pass
                    return
                self._connect()
            try:
                action = self._queue.get(timeout=None if self._writer else 1.0)
            except queue.Empty:
                continue
            if action is None:
                return
            if self._writer:
                try:
                    self._source.check()
                    action(self._writer)
                except LeaseLost:
                    raise
                except Exception as error:
                    self._lost(error)

    def _connect(self) -> None:
        try:
            writer = Writer(self._source, self._say)
            writer.catch_up()
        except LeaseLost:
            raise
        except Exception as error:
            self._lost(error)
            return
        self._writer = writer
        if self._is_lost:
            self._is_lost = False
            self._say("the tracking server answers again; the missing results are logged")

    def _lost(self, error: Exception) -> None:
        self._writer = None
        if not self._is_lost:
            self._is_lost = True
            if isinstance(error, (Halted, StorageError)):  # of the sweep's own files
                self._say(f"MLflow is not brought up to date: {first_line(error)}")
                return
            # The driver's error names the cause; SQLAlchemy's error begins with other text.
            error = getattr(error.__cause__, "orig", error)
            reason = first_line(error)
            self._say(
                f"the tracking server stopped answering ({reason[:200]}); the sweep continues, "
                "and logs the missing results when the server answers or when the sweep is resumed"
            )
