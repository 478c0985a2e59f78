"""How many trials fit a node, and how Ray comes up and ends."""

import threading

import pytest

from rsas import InputError
from rsas.search import cluster
from rsas.search.cluster import slots_of
from rsas.search.experiment import Resources


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
