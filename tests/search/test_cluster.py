"""How many trials fit a node, and how Ray comes up and ends."""

import threading

import pytest

from rsas import InputError
from rsas.search import cluster
from rsas.search.cluster import slots_of
from rsas.search.experiment import Resources


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
        with cluster.early(None, "study.py:experiment"):
            threading.Timer(0.2, up.set).start()  # Ray comes up after the input was refused
            raise InputError("bad input")

    with pytest.raises(InputError, match="bad input"):
        refused()
    assert alive == [[True]]
    assert not threads[0].is_alive()


@pytest.fixture
def client_refused(monkeypatch):
    """Ray whose client is refused as by a busy head, so often; returns what was asked of it."""
    asked = []

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


def test_a_busy_head_is_asked_twice_for_a_client(client_refused):
    asked = client_refused(times=1)
    with cluster.connected("ray://head:1", Resources(cpus=1), "study.py:experiment") as slots:
        assert slots() == 2
    assert asked == ["ray://head:1"] * 2


def test_what_does_not_fit_this_machine_never_will(client_refused, monkeypatch):
    """However many trials are asked for at once; a cluster may yet grow."""
    asked = client_refused(times=0)
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 2.0})
    resources = Resources(cpus=64, max_concurrent=1)
    with (
        pytest.raises(InputError, match="a trial needs 64 CPUs .* this machine has 2 and 0 in all"),
        cluster.connected(None, resources, "study.py:experiment"),
    ):
        pass
    with cluster.connected("auto", resources, "study.py:experiment") as slots:
        assert slots() == 1
    assert asked == ["local", "auto"]


def test_why_a_head_refuses_a_client_is_told_in_one_line(client_refused):
    client_refused(times=2)
    with (
        pytest.raises(InputError, match="from server: RuntimeError: Proxy failed") as refused,
        cluster.connected("ray://head:1", Resources(cpus=1), "study.py:experiment"),
    ):
        pass
    assert "\n" not in str(refused.value)


def test_a_key_in_the_error_of_a_head_is_hidden_before_the_error_is_cut(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "abc\ndef\nghi")
    error = RuntimeError("Traceback\n  in f\nValueError: abc\ndef\nghi")
    assert cluster._reason(error) == "RuntimeError: Traceback ValueError: ***"
