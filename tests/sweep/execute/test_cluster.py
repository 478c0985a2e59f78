"""How many trials fit a node, and how Ray comes up, for whom, and ends."""

import contextlib
import ipaddress
import json
import os
import socket
import subprocess
import sys
import threading

import pytest

from rsas import InputError
from rsas.sweep.execute import cluster
from rsas.sweep.execute.cluster import slots_of
from rsas.sweep.experiment import Resources
from tests.servers import free_port


def test_parts_of_several_gpus_are_refused():
    """Ray has no such trials."""
    assert Resources(gpus=2).gpus == 2.0
    with pytest.raises(InputError, match="gpus=1.5: expected a share of one GPU, or whole ones"):
        Resources(gpus=1.5)


@pytest.mark.parametrize(
    ("cpus", "gpus", "node", "count"),
    [
        (1, 0, {"CPU": 4.0}, 4),
        (1, 0, {"CPU": 4.0, "GPU": 1.0}, 4),  # a trial without a GPU leaves it alone
        (3, 0, {"CPU": 8.0}, 2),
        (0.1, 0, {"CPU": 0.3}, 3),  # 0.3 / 0.1 is a little less than 3
        (16, 0, {"CPU": 8.0}, 0),
        (1, 1, {"CPU": 8.0, "GPU": 2.0}, 2),
        (1, 1, {"CPU": 8.0}, 0),
        (4, 1, {"CPU": 8.0, "GPU": 4.0}, 2),
        (1, 2, {"CPU": 8.0, "GPU": 3.0}, 1),
        (1, 0.25, {"CPU": 16.0, "GPU": 2.0}, 8),
        (1, 0.6, {"CPU": 16.0, "GPU": 3.0}, 3),  # no trial has parts of two GPUs
        (1, 1 / 3, {"CPU": 16.0, "GPU": 1.0}, 3),
        (1, 0.5, {"CPU": 16.0, "GPU": 0.5}, 0),  # Ray would not place it on this part of one
        (1, 0, {}, 0),
        (1, 0, {"memory": 1e9}, 0),
    ],
)
def test_slots_of_a_node(cpus, gpus, node, count):
    assert slots_of(node, Resources(cpus=cpus, gpus=gpus)) == count


@contextlib.contextmanager
def connected(address, resources):
    with cluster.Connection(address, "study.py:experiment") as connection:
        yield connection.slots(resources)


def test_ray_is_ended_while_the_thread_that_began_it_lives(monkeypatch):
    """The kernel ends Ray's processes with that thread; then Ray would end this process."""
    threads, alive = [], []
    up = threading.Event()

    def start(*_):
        up.wait(10)
        threads.append(threading.current_thread())

    monkeypatch.setattr(cluster, "_start", start)
    monkeypatch.setattr("ray.shutdown", lambda: alive.append([t.is_alive() for t in threads]))

    def refused():
        with cluster.Connection(None, "study.py:experiment"):
            threading.Timer(0.2, up.set).start()  # Ray comes up after the input was refused
            raise InputError("bad input")

    with pytest.raises(InputError, match="bad input"):
        refused()
    assert alive == [[True]]
    assert not threads[0].is_alive()


OWN_RAY = """
import json, os, time
import psutil
from rsas.sweep.execute import cluster
from rsas.sweep.experiment import Resources
import ray

def listening():
    me = psutil.Process()
    for each in (me, *me.children(recursive=True)):
        words = [os.path.basename(word) for word in each.cmdline()]
        name = "monitor.py" if "monitor.py" in words else each.name()
        for sock in each.net_connections():
            if sock.status == psutil.CONN_LISTEN:
                yield name, sock.laddr.ip

os.umask(0o022)
with cluster.Connection(None, "study.py:experiment") as connection:
    connection.slots(Resources(cpus=1))
    ray.get(ray.remote(lambda: None).remote())
    deadline = time.monotonic() + 10
    while "monitor.py" not in dict(listening()) and time.monotonic() < deadline:
        time.sleep(0.2)  # the last one to listen, where its port is free
    print(json.dumps([*listening()]))
"""


@pytest.mark.slow
def test_own_ray_is_for_this_machine_and_this_user(tmp_path):
    """All sockets, of the driver and of workers too, are on loopback; the token is private."""
    environment = {**os.environ, "HOME": str(tmp_path)}
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        environment.pop(name, None)
    ended = subprocess.run(
        [sys.executable, "-c", OWN_RAY], env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    sockets = json.loads(ended.stdout)
    assert {"gcs_server", "raylet", "ray::RuntimeEnvAgent"} <= {name for name, _ in sockets}
    addresses = [(name, ipaddress.ip_address(address)) for name, address in sockets]
    assert [
        (name, str(found))
        for name, found in addresses
        if not (getattr(found, "ipv4_mapped", None) or found).is_loopback
    ] == []
    assert (tmp_path / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600


def test_a_token_that_others_can_read_is_closed(client_refused, monkeypatch, tmp_path, caplog):
    """Of the user's choice it is left alone, as is that of a cluster."""
    client_refused(times=0)
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("0123456789abcdef")
    token.chmod(0o644)

    def mode_after(address):
        with connected(address, Resources(cpus=1)):
            return token.stat().st_mode & 0o777

    assert mode_after("auto") == 0o644
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of the user")
    assert mode_after(None) == 0o644
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    assert caplog.messages == []
    assert mode_after(None) == 0o600
    (told,) = caplog.messages
    assert "could be read by other users" in told and "\n" not in told
    assert mode_after(None) == 0o600 and len(caplog.messages) == 1
    assert token.read_text() == "0123456789abcdef"


def test_a_token_that_cannot_be_closed_is_said(client_refused, monkeypatch, tmp_path, caplog):
    """As of a folder that is mounted to be read only."""
    client_refused(times=0)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("0123456789abcdef")
    (tmp_path / ".ray" / "auth_token").chmod(0o640)

    def refuse(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("pathlib.Path.chmod", refuse)
    with connected(None, Resources(cpus=1)) as slots:
        assert slots() == 2
    (told,) = caplog.messages
    assert "can be read by other users (Read-only file system)" in told


@pytest.fixture
def client_refused(monkeypatch, tmp_path):
    """Ray whose client is refused as by a busy head, so often; returns what was asked of it."""
    asked = []
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)

    def refuse(times):
        def init(**options):
            asked.append(options["address"])
            if len(asked) <= times:
                raise ConnectionAbortedError(
                    "Initialization failure from server:\nTraceback (most recent call last):\n"
                    '  File "proxier.py", line 780, in Datapath\nRuntimeError: Proxy failed\n'
                )

        monkeypatch.setattr("ray.init", init)
        monkeypatch.setattr("ray.shutdown", lambda: None)
        monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}])
        return asked

    return refuse


@pytest.fixture
def head():
    """The address of a port that accepts connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"ray://127.0.0.1:{server.getsockname()[1]}"


def test_a_busy_head_is_asked_twice_for_a_client(client_refused, head):
    asked = client_refused(times=1)
    with connected(head, Resources(cpus=1)) as slots:
        assert slots() == 2
    assert asked == [head] * 2


@pytest.mark.parametrize("form", ["ray://127.0.0.1:{}", "127.0.0.1:{}", "[::1]:{}"])
def test_a_port_where_nothing_answers_is_refused_soon(client_refused, monkeypatch, form):
    """Ray itself tried for over a minute."""
    monkeypatch.setattr(cluster, "_PORT_SECONDS", 0.2)
    asked, address = client_refused(times=0), form.format(free_port())
    with (
        pytest.raises(InputError, match="no Ray cluster answers .*refused|Cannot assign"),
        connected(address, Resources(cpus=1)),
    ):
        pass
    assert asked == []


def test_a_head_that_is_just_starting_is_waited_for(client_refused):
    asked, port = client_refused(times=0), free_port()
    servers = []
    start = threading.Timer(1.0, lambda: servers.append(socket.create_server(("127.0.0.1", port))))
    start.start()
    with connected(f"127.0.0.1:{port}", Resources(cpus=1)):
        start.join()
    servers[0].close()
    assert len(asked) == 1


def test_what_does_not_fit_this_machine_never_will(client_refused, monkeypatch):
    """However many trials are asked for at once; a cluster may yet grow."""
    asked = client_refused(times=0)
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 2.0})
    resources = Resources(cpus=64, max_concurrent=1)
    with (
        pytest.raises(InputError, match="a trial needs 64 CPUs .* this machine has 2 and 0 in all"),
        connected(None, resources),
    ):
        pass
    with connected("auto", resources) as slots:
        assert slots() == 1
    assert asked == ["local", "auto"]


def test_why_a_head_refuses_a_client_is_told_in_one_line(client_refused, head):
    client_refused(times=2)
    with (
        pytest.raises(InputError, match="from server: RuntimeError: Proxy failed") as refused,
        connected(head, Resources(cpus=1)),
    ):
        pass
    assert "\n" not in str(refused.value)


def test_a_key_in_the_error_of_a_head_is_hidden_before_the_error_is_cut(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "abc\ndef\nghi")
    error = RuntimeError("Traceback\n  in f\nValueError: abc\ndef\nghi")
    assert cluster._reason(error) == "RuntimeError: Traceback ValueError: ***"
