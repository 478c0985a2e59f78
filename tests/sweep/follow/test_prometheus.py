"""What a running sweep tells Prometheus."""

import contextlib
import socket
import urllib.error
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from rsas.errors import InputError
from rsas.records import TrialRecord
from rsas.sweep.follow.prometheus import SweepGauges, serving
from tests.made import OBJECTIVES


def trial(number, state, accuracy=0.0, sparsity=0.0):
    return TrialRecord(
        trial_id=f"t{number:04d}",
        state=state,
        params={},
        objectives={"val_accuracy": accuracy, "sparsity": sparsity} if state == "complete" else {},
        started=0.0,
        finished=1.0,
    )


def told(registry):
    """Lines without comments, as Prometheus gets them."""
    lines = generate_latest(registry).decode().splitlines()
    return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))


def test_numbers_follow_what_happens():
    slots = iter([2, 2, 3, 3, 3])
    before = [trial(0, "complete", 0.6, 0.5), trial(1, "running")]
    metrics = SweepGauges(
        "first", asked=5, objectives=OBJECTIVES, trials=before, slots=lambda: next(slots)
    )
    registry = CollectorRegistry()
    registry.register(metrics)
    assert told(registry) == {
        'rsas_trials{state="running",sweep="first"}': "1.0",  # of a process that was killed
        'rsas_trials{state="complete",sweep="first"}': "1.0",
        'rsas_trials{state="pruned",sweep="first"}': "0.0",
        'rsas_trials{state="failed",sweep="first"}': "0.0",
        'rsas_trials_asked{sweep="first"}': "5.0",
        'rsas_front_size{sweep="first"}': "1.0",
        'rsas_hypervolume{sweep="first"}': "0.25",
        'rsas_slots{sweep="first"}': "2.0",
        'rsas_slots_busy{sweep="first"}': "0.0",
        'rsas_epochs_total{sweep="first"}': "0.0",
        'rsas_training_seconds_total{sweep="first"}': "0.0",
    }
    metrics.begin(before[1])
    metrics.begin(trial(2, "running"))
    metrics.rows(1, [{"epoch": 1.0, "seconds": 0.25}, {"epoch": 2.0, "seconds": 0.5}])
    metrics.rows(1, [{"epoch": 3.0, "seconds": 1.0}])
    now = told(registry)
    assert now['rsas_trials{state="running",sweep="first"}'] == "2.0"
    assert now['rsas_slots_busy{sweep="first"}'] == "2.0"
    assert now['rsas_slots{sweep="first"}'] == "3.0"
    assert now['rsas_epochs_total{sweep="first"}'] == "3.0"
    assert now['rsas_training_seconds_total{sweep="first"}'] == "1.75"
    complete, failed = trial(1, "complete", 0.35, 0.75), trial(2, "failed")
    metrics.end(complete, [before[0], complete, trial(2, "running")])
    metrics.end(failed, [before[0], complete, failed])
    now = told(registry)
    counts = {s: now[f'rsas_trials{{state="{s}",sweep="first"}}'] for s in ("running", "failed")}
    assert counts == {"running": "0.0", "failed": "1.0"}
    assert now['rsas_slots_busy{sweep="first"}'] == "0.0"
    assert now['rsas_front_size{sweep="first"}'] == "2.0"
    assert now['rsas_hypervolume{sweep="first"}'] == "0.3125"  # 0.5 x 0.5 + 0.25 x 0.25


def test_served_on_loopback_while_the_context_lasts():
    lines = []
    with serving(0, lines.append) as registry:
        registry.register(
            SweepGauges("first", asked=5, objectives=OBJECTIVES, trials=[], slots=lambda: 2)
        )
        (line,) = lines
        url = line.rpartition(" ")[2]
        assert url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(url) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=")
            assert b'\nrsas_slots{sweep="first"} 2.0\n' in answer.read()
        rebound = urllib.request.Request(url, headers={"Host": "elsewhere.example:80"})
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(rebound)
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url)


def test_nothing_is_served_unless_asked(monkeypatch):
    monkeypatch.setattr("rsas.sweep.follow.prometheus.listen", lambda *_: pytest.fail("served"))
    with serving(None, pytest.fail) as registry:
        assert told(registry) == {}


@pytest.mark.parametrize("port", [-1, 65536])
def test_no_port(port):
    message = rf"--metrics-port {port}: expected a port in \[0, 65535\]"
    with pytest.raises(InputError, match=message), serving(port, pytest.fail):
        pass


def test_a_port_that_is_taken():
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        message = f"--metrics-port {port}: cannot listen on 127.0.0.1:{port} .Address already in"
        with pytest.raises(InputError, match=message), serving(port, pytest.fail):
            pass
