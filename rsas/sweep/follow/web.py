"""A small HTTP server for a WSGI application, which pages of other sites cannot read."""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

__all__ = ["App", "listen", "only_for"]

App = Callable[..., Iterable[bytes]]

_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104  # compared with, not listened on


def listen(app: App, host: str, port: int) -> WSGIServer:
    """Return a listening server of the application, with a thread per request.

    A request whose Host header names another machine is answered with 403. Thus a page that lets
    its own name point to this machine (DNS rebinding) reads nothing.

    Args:
        app: WSGI application.
        host: address to listen on.
        port: in [0, 65535], 0 for a free one.

    Raises:
        OSError: the address is not available.
        OverflowError: the port is out of range.
    """

    class Server(ThreadingMixIn, WSGIServer):
        daemon_threads = True
        address_family = socket.getaddrinfo(host, port)[0][0]

    guarded = only_for(host, app)
    return make_server(host, port, guarded, server_class=Server, handler_class=_Quiet)


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing: a line per request would hide other output on the terminal."""


def only_for(host: str, app: App) -> App:
    """Return the application, restricted to requests for the host on which it listens."""
    names = {"localhost", host.lower()}
    if host in _EVERYWHERE:
        names.add(socket.gethostname().lower())

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        requested = environ.get("HTTP_HOST", "")
        name = _name_of(requested)
        # The port is not compared: the other end of a tunnel may have another one.
        if name in names or _is_address(name):
            return app(environ, start)
        start("403 Forbidden", [("Content-Type", "application/json")])
        hosts = ", ".join(sorted(names))
        reason = f"Host {requested!r}: this server is for {hosts} and IP addresses"
        return [json.dumps({"reason": reason}).encode()]

    return answer


def _name_of(host: str) -> str:
    """Return the name or address in a Host header, in lower case; empty if it has none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:  # brackets without an IPv6 address
        return ""


def _is_address(name: str) -> bool:
    """Return whether a name is an IP address, which no DNS server can redirect."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
