"""Optuna's dashboard on the study of a sweep: it shows all and changes nothing."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from rsas import TrainConfig
from rsas.cli import main
from rsas.errors import InputError
from rsas.sweep.experiment import Budget, Experiment, Objective
from rsas.sweep.follow.optuna_dashboard import serve
from rsas.sweep.study.study import Study
from tests import made
from tests.resources import RSAS

EXPERIMENT = Experiment(
    name="tiny",
    base=TrainConfig(),
    space=lambda trial: {"sparsity": trial.suggest_float("sparsity", 0.1, 0.9)},
    objectives=(
        Objective("val_accuracy", "max", worst=0.0),
        Objective("train_loss", "min", worst=9.0),
    ),
    budget=Budget(trials=3),
)


@pytest.fixture
def folder(tmp_path):
    """Of a sweep with a complete, a failed and a running trial; an older sweep is beside it."""
    (older, _), (shown, study) = (
        made.make(tmp_path / "runs", name, EXPERIMENT, "tiny.py:experiment")
        for name in ("older", "shown")
    )
    for file in older.path.iterdir():
        os.utime(file, (0, 0))
    for _ in range(3):
        study.begin()
    study.complete(0, {"val_accuracy": 0.5, "train_loss": 1.25, "epoch": 3.0})
    study.fail(1, "no luck")
    return shown


def fetch(url, method="GET", **headers):
    request = urllib.request.Request(url, method=method, headers=headers)
    with urllib.request.urlopen(request) as answer:
        return answer.read()


@pytest.mark.resource
@pytest.mark.parametrize(("names", "end"), [([], signal.SIGTERM), (["shown"], signal.SIGINT)])
def test_the_study_and_its_trials_are_shown(names, end, folder):
    command = [*RSAS, "ui", *names, "--optuna", "--port", "0"]
    environment = {**os.environ, "RSAS_WORKSPACE": str(folder.path.parent)}
    ui = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        line = ui.stdout.readline()
        page = re.search(r"http://127\.0\.0\.1:\d+/dashboard/studies/(\d+)", line)
        assert page, line + ui.stderr.read()
        root = page[0].partition("/dashboard")[0]
        before = folder.journal.read_bytes()
        assert b"<html" in fetch(page[0])
        (study,) = json.loads(fetch(f"{root}/api/studies"))["study_summaries"]
        assert study["study_id"] == int(page[1])
        assert study["directions"] == ["maximize", "minimize"]
        found = json.loads(fetch(f"{root}/api/studies/{page[1]}"))
        assert found["objective_names"] == ["val_accuracy", "train_loss"]
        assert [trial["state"] for trial in found["trials"]] == ["Complete", "Fail", "Running"]
        assert found["trials"][0]["values"] == [0.5, 1.25]
        # A page elsewhere whose name was made to point here (DNS rebinding).
        with pytest.raises(urllib.error.HTTPError) as refused:
            fetch(f"{root}/api/studies", Host=f"elsewhere.example:{root.rpartition(':')[2]}")
        assert refused.value.code == 403
        assert "Host 'elsewhere.example:" in json.loads(refused.value.read())["reason"]
        # What it could do to the study.
        study_api = f"studies/{page[1]}"
        writes = (("DELETE", study_api), ("POST", "studies"), ("PUT", f"{study_api}/note"))
        for method, place in writes:
            with pytest.raises(urllib.error.HTTPError) as refused:
                fetch(f"{root}/api/{place}", method)
            assert refused.value.code == 405
        assert folder.journal.read_bytes() == before
        # A sweep that goes on is followed.
        folder.study(EXPERIMENT).complete(2, {"val_accuracy": 1, "train_loss": 2, "epoch": 3.0})
        csv = fetch(f"{root}/csv/{page[1]}").decode()
        assert csv.splitlines()[0].startswith("Number,State,val_accuracy,train_loss")
        ui.send_signal(end)
        _, errors = ui.communicate(timeout=120)
    finally:
        ui.kill()
    assert (ui.returncode, errors) == (0, "")


def test_a_port_that_is_taken(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"cannot listen on 127.0.0.1:{port} .Address already"):
            serve(folder.study(), "127.0.0.1", port, pytest.fail)


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_a_dashboard_that_others_can_reach_is_warned_of(host, warned, folder, monkeypatch, capsys):
    def told(study, host, port, say):
        say(f"at {host}:{port}")

    monkeypatch.setattr("rsas.sweep.follow.optuna_dashboard.serve", told)
    place = str(folder.path.parent)
    command = ["rsas", "ui", "--optuna", "--host", host, "--workspace", place]
    monkeypatch.setattr(sys, "argv", command)
    with contextlib.suppress(SystemExit):
        main()
    out, err = capsys.readouterr()
    assert out == f"at {host}:8080\n"
    assert ("can read all of the study" in err) == warned


def test_without_the_extra(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    with pytest.raises(InputError, match=r"pip install 'rsas\[optuna-dashboard\]'"):
        serve(folder.study(), "127.0.0.1", 0, pytest.fail)


def test_a_study_of_before_gets_its_names_when_it_goes_on(tmp_path, monkeypatch, recwarn):
    with monkeypatch.context() as patch:
        patch.setattr(Study, "_name_objectives", lambda *_: None)
        Study(tmp_path / "journal", EXPERIMENT)
    assert Study(tmp_path / "journal").optuna_study.metric_names is None
    Study(tmp_path / "journal", EXPERIMENT)
    assert Study(tmp_path / "journal").optuna_study.metric_names == ["val_accuracy", "train_loss"]
    Study(tmp_path / "journal", EXPERIMENT)
    assert (tmp_path / "journal").read_text().count("metric_names") == 1  # once
    assert [str(each.message) for each in recwarn] == []
