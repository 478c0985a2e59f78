"""Optuna's dashboard on the study of a sweep, to be looked at."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterable
from typing import Any

from rsas.errors import InputError
from rsas.sweep.follow.web import App, listen
from rsas.sweep.study.study import Study

__all__ = ["serve"]


def serve(study: Study, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve the dashboard until Ctrl-C or SIGTERM.

    Args:
        study: of the sweep, opened for reading; another process may write it meanwhile.
        host: address to listen on.
        port: to listen on, 0 for one that is free.
        say: tells the user where it is.

    Raises:
        InputError: Optuna's dashboard is not installed, or the address cannot be listened on.
    """
    try:
        from optuna_dashboard import wsgi
    except ModuleNotFoundError:
        raise InputError(
            "ui --optuna: Optuna's dashboard is not installed; "
            "pip install 'rsas[optuna-dashboard]' brings it"
        ) from None
    try:
        server = listen(_read_only(wsgi(study.optuna_study._storage)), host, port)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"cannot listen on {host}:{port} ({reason}); --port names another"
        ) from None
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with server, contextlib.suppress(KeyboardInterrupt):
        address = f"[{host}]" if ":" in host else host
        page = f"dashboard/studies/{study.optuna_study._study_id}"
        say(f"Optuna's dashboard, to be read only: http://{address}:{server.server_port}/{page}")
        server.serve_forever()


def _read_only(app: App) -> App:
    """The dashboard without what it can do to a study: notes, deletion, trials told by hand.

    The study decides what a sweep does; only the process that has the sweep's lease writes.
    """

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return app(environ, start)
        start(
            "405 Method Not Allowed", [("Content-Type", "application/json"), ("Allow", "GET, HEAD")]
        )
        return [b'{"reason": "a sweep\'s study is not changed here"}']

    return answer
