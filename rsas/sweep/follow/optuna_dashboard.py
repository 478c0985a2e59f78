"""Optuna's dashboard of a sweep's study, for reading only."""

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
        study: of the sweep, opened for reading; another process may write the study meanwhile.
        host: address to listen on.
        port: port to listen on, 0 for a free one.
        say: shows the user a line with the address of the page.

    Raises:
        InputError: Optuna's dashboard is not installed, or the address is not available.
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
    """Return the dashboard without its write requests: notes, deletion, results set by hand.

    A sweep acts on its study, so only the process that holds the sweep's lease may write the study.
    """

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return app(environ, start)
        start(
            "405 Method Not Allowed", [("Content-Type", "application/json"), ("Allow", "GET, HEAD")]
        )
        return [b'{"reason": "a sweep\'s study is not changed here"}']

    return answer
