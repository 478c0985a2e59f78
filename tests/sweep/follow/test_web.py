"""For whom a server answers: by the Host header, as a browser sends it."""

import json

import pytest

from rsas.sweep.follow.web import only_for


def app(environ, start):
    start("200 OK", [("Content-Type", "text/plain")])
    return [b"for you"]


@pytest.mark.parametrize(
    ("host", "header", "allowed"),
    [
        ("127.0.0.1", "127.0.0.1:8080", True),
        ("127.0.0.1", "localhost:9000", True),  # a tunnel with another port
        ("127.0.0.1", "LocalHost", True),
        ("127.0.0.1", "[::1]:8080", True),
        ("127.0.0.1", "elsewhere.example:8080", False),
        ("127.0.0.1", "localhost.elsewhere.example", False),
        ("127.0.0.1", "127.0.0.1.elsewhere.example:8080", False),
        ("127.0.0.1", "10.elsewhere.example:8080", False),
        ("127.0.0.1", "[elsewhere.example]:8080", False),
        ("127.0.0.1", "[::1", False),
        ("127.0.0.1", "", False),
        ("127.0.0.1", None, False),
        ("127.0.0.1", "node7:8080", False),
        ("0.0.0.0", "node7:8080", True),
        ("::", "node7:8080", True),
        ("0.0.0.0", "192.0.2.7:8080", True),
        ("0.0.0.0", "elsewhere.example", False),
        ("Node7.cluster.example", "node7.cluster.example:8080", True),
        ("Node7.cluster.example", "node8.cluster.example:8080", False),
    ],
)
def test_whose_requests_are_answered(host, header, allowed, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "Node7")
    statuses = []
    environ = {} if header is None else {"HTTP_HOST": header}
    answer = only_for(host, app)(environ, lambda status, headers: statuses.append(status))
    if allowed:
        assert (statuses, list(answer)) == (["200 OK"], [b"for you"])
    else:
        reason = json.loads(b"".join(answer))["reason"]
        assert statuses == ["403 Forbidden"] and reason.startswith(f"Host {header or ''!r}: ")
