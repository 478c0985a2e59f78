"""Sweeps that are killed, cut off from their servers, or run out of disk: the short form.

The long form is ``make chaos`` (tests/faults/chaos.py). Seeds of random moments are printed.
"""

import contextlib
import json
import os
import shutil
import subprocess
import time

import pytest

from rsas.pareto import front
from rsas.records import TrialRecord
from tests.faults.harness import (
    EPOCHS,
    INTERVAL,
    Place,
    children_by_trial,
    disturb,
    kill_driver,
    pareto_of,
    repeated,
    results,
    seeded,
    undisturbed,
)
from tests.needs import lacking

pytestmark = pytest.mark.resource


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Results of twenty trials that nothing disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return undisturbed(Place(folder / "place"), 20, folder / "study")


def front_of_mlflow(runs, objectives):
    """From MLflow alone: the trials whose runs no other run dominates."""
    trials = [
        TrialRecord(
            trial_id=run.data.tags["rsas.trial_id"],
            state="complete",
            params={},
            objectives={o.name: run.data.metrics[o.name] for o in objectives},
            started=0.0,
            finished=0.0,
        )
        for run in runs
        if run.info.status == "FINISHED"
    ]
    return {t.trial_id: t.objectives for t in front(trials, objectives)}


def test_twelve_trials_extended_to_twenty_and_killed_twice(tmp_path, expected):
    place = Place(tmp_path, seconds=0.02)
    sweep = place.sweep("t", 12)
    place.wait_for_epochs(sweep, 5 * EPOCHS + 5)
    kill_driver(place, sweep, None)
    told = json.loads(place.run("status", "t", "--json"))
    assert told["state"] == "interrupted"
    assert 3 <= told["counts"]["complete"] < 12
    again = place.start("extend", "t", "--trials", "20")
    place.wait_for_epochs(again, 14 * EPOCHS + 5)
    kill_driver(place, again, None)
    place.run("resume", "t")

    told = pareto_of(place, "t")
    assert told["state"] == "finished"
    assert told["counts"] == {"asked": 20, "complete": 20, "running": 0, "pruned": 0, "failed": 0}
    folder = place.open("t")
    status = folder.status()
    assert results(status.trials) == results(expected)
    client, runs, children = children_by_trial(place)
    assert children == {trial.trial_id: 1 for trial in expected}
    members = {m["trial_id"]: m["objectives"] for m in told["front"]}
    assert members == front_of_mlflow(runs, status.objectives)
    for run in runs:
        steps = [m.step for m in client.get_metric_history(run.info.run_id, "val_accuracy")]
        assert steps == list(range(1, EPOCHS + 1))
    assert place.begun() - 20 * EPOCHS <= 2 * INTERVAL
    assert sum(count > 0 for count in repeated(folder).values()) <= 2
    assert place.faults("t") == []
    assert set(folder.models.names()) == members.keys()
    assert not list(folder.path.glob("trials/*/checkpoint*"))  # of what has ended
    assert "agree on 20 trials" in place.run("check", "t")
    assert place.run("resume", "t").count("front of 20 trials") == 1  # nothing left to do
    assert place.begun() - 20 * EPOCHS <= 2 * INTERVAL


def test_killed_with_two_trials_at_once_of_which_some_are_stopped_early(tmp_path):
    place = Place(tmp_path, "by_halving", options=["--concurrency", "2"], seconds=0.05)
    sweep = place.sweep("h", 10)
    place.wait_for_epochs(sweep, 4 * EPOCHS)
    kill_driver(place, sweep, None)
    place.run("resume", "h")
    status = place.open("h").status()
    assert status.state == "finished"
    assert status.counts["complete"] + status.counts["pruned"] == len(status.trials) == 10
    assert status.counts["pruned"] > 0
    assert 0 <= place.begun() - sum(trial.epochs for trial in status.trials) <= 2 * INTERVAL
    _, _, children = children_by_trial(place)
    assert children == {trial.trial_id: 1 for trial in status.trials}
    assert place.faults("h") == []


@pytest.mark.parametrize("kind", ["worker -9", "driver TERM", "journal spoilt"])
def test_disturbed_at_a_random_moment(kind, tmp_path, expected):
    rng = seeded(time.time_ns() % 10**6)
    outcome = disturb(Place(tmp_path), "s", 3, kind, rng, expected)
    assert outcome.is_good, outcome


def test_a_full_disk_stops_the_sweep_and_counts_as_nobodys_failure(tmp_path, expected):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        lacking("needs the right to mount a small disk")
    try:
        place = Place(tmp_path, options=["--workspace", str(disk)])
        place.runs = disk
        sweep = place.sweep("s", 3)
        place.wait_for_epochs(sweep, EPOCHS + 2)
        room = shutil.disk_usage(disk).free
        with contextlib.suppress(OSError), (disk / "filler").open("wb", 0) as file:
            for _ in range(room // 4096 + 100):  # to the last byte
                file.write(bytes(4096))
        assert sweep.wait(120) == 1, place.output()
        output = place.output()
        assert "No space left" in output
        assert "had to stop" in output
        assert "rsas resume s" in output
        assert "Traceback" not in output
        (disk / "filler").unlink()
        place.run("resume", "s", "--workspace", str(disk))
        assert place.faults("s") == []
        found = place.open("s").status()
        assert found.counts["failed"] == 0
        assert results(found.trials) == results(expected[:3])
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_servers_that_go_away_and_come_back(tmp_path, expected):
    """MLflow and the study in one PostgreSQL, which restarts; MLflow is down for a while."""
    from tests.servers import mlflow_server, postgres

    with postgres(tmp_path) as database, mlflow_server(tmp_path, database.url) as server:
        secret = database.url.split(":")[2].split("@")[0]
        environment = {"RSAS_STUDY_STORAGE": database.url, "MLFLOW_TRACKING_URI": server.uri}
        place = Place(tmp_path, environment=environment)
        sweep = place.sweep("s", 4)
        place.wait_for_epochs(sweep, EPOCHS + 2)
        server.stop()
        place.wait_for_epochs(sweep, 2 * EPOCHS + 2)
        database.restart("fast")
        place.wait_for_epochs(sweep, 3 * EPOCHS)
        server.start()
        assert sweep.wait(120) == 0, place.output()
        output = place.output()
        place.run("resume", "s")  # logs what the server did not get in time
        with place.given_environment():
            os.environ["MLFLOW_TRACKING_URI"] = server.uri
            assert place.faults("s") == []
            assert results(place.open("s").status().trials) == results(expected[:4])
        assert output.count("stopped answering") == 1
        texts = [output, (place.runs / "s" / "sweep.json").read_text()]
        assert not any(secret in text for text in texts)
        without = {k: v for k, v in environment.items() if k != "RSAS_STUDY_STORAGE"}
        other = Place(tmp_path, environment=without)
        told = other.run("resume", "s", expected=2)
        assert "set RSAS_STUDY_STORAGE" in told and secret not in told


def test_a_model_that_hangs_is_ended_after_the_device_hours_and_goes_on_later(tmp_path):
    place = Place(tmp_path, "with_little_overtime", options=["--device-hours", "0.001"])
    sweep = place.sweep("s", 2)
    place.wait_for_epochs(sweep, INTERVAL + 1)
    with place.hanging():
        assert sweep.wait(120) == 0, place.output()
    hung = place.begun()
    assert hung < EPOCHS
    output = place.output()
    assert output.count("t0000: did not answer for 1 s after the limit of 0.001 device-hours") == 1
    assert "its 0.001 device-hours are used up; rsas extend s gives more" in output
    assert "Traceback" not in output
    status = place.open("s").status()
    assert (status.state, [t.state for t in status.trials]) == ("finished", ["running"])
    assert place.faults("s") == []

    place.run("extend", "s", "--device-hours", "1")
    status = place.open("s").status()
    assert (status.state, status.counts["complete"]) == ("finished", 2)
    assert 0 <= place.begun() - 2 * EPOCHS <= INTERVAL  # those since the checkpoint
    assert place.faults("s") == []


def test_a_model_that_hangs_is_ended_after_the_hours(tmp_path):
    place = Place(tmp_path, "with_little_overtime", options=["--hours", "0.003"])
    with place.hanging():
        begin = time.monotonic()
        assert place.sweep("s", 2).wait(150) == 0, place.output()
        assert time.monotonic() - begin < 120
    assert "t0000: did not answer for 1 s after the limit of 0.003 hours" in place.output()
    status = place.open("s").status()
    assert (status.state, status.spent) == ("finished", "0.003 hours")
    assert status.counts["failed"] == 0
    assert place.faults("s") == []
