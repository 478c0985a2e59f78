"""The command line: bad input is one clear line, exit code 2, and nothing written."""

import contextlib
import dataclasses
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import types
from types import SimpleNamespace

import numpy as np
import pytest

from rsas.errors import Halted, InputError, StorageError
from rsas.sweep.experiment import Budget, load_experiment
from rsas.sweep.files.trial_dir import TrialDir, write_model
from tests.analysis.conftest import EXPERIMENT, fill
from tests.leaks import LEAKS
from tests.made import make, rows

QUICKSTART = "experiments/digits_quickstart.py"
LONG = 300 * "x"  # longer than a file's name may be


@pytest.fixture
def rsas(monkeypatch, command_line, request, tmp_path):
    """``command_line`` in the project's folder, with a workspace of the test's own."""
    monkeypatch.chdir(request.config.rootpath)
    monkeypatch.setenv("RSAS_WORKSPACE", str(tmp_path / "runs"))
    # Ray comes up while the input is looked at; here nothing is to get as far as to need it.
    connection = types.SimpleNamespace(address=None)
    monkeypatch.setattr("rsas.cli.run._early_ray", lambda *_: contextlib.nullcontext(connection))
    return command_line


def broken(tmp_path, body):
    path = tmp_path / "broken.py"
    path.write_text(body)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep", "missing.py"], "there is no file 'missing.py'"),
        (["sweep", "README.md"], "expected file.py or file.py:function"),
        (["sweep", f"{QUICKSTART}:nothing"], "has no function 'nothing'"),
        (["sweep", QUICKSTART, "--set", "sparcity=0.5"], "did you mean 'sparsity'?"),
        (["sweep", QUICKSTART, "--set", "sparsity=1.5"], "sparsity=1.5: expected a number in"),
        (["sweep", QUICKSTART, "--set", "sparsity"], "expected NAME=VALUE"),
        (["sweep", QUICKSTART, "--set", "sparsity=0.5"], "searches this field"),
        (["sweep", QUICKSTART, "--set", "dataset=mnist"], "expected {data}/MNIST/raw/"),
        (["sweep", QUICKSTART, "--set", "dataset=cats"], "expected one of digits, mnist"),
        (["sweep", QUICKSTART, "--set", "dataset=npz:none.npz"], "there is no such file"),
        (["sweep", QUICKSTART, "--set", "model=nothing:net"], "cannot import 'nothing'"),
        (["sweep", QUICKSTART, "--set", "val_fraction=0"], "on a validation split"),
        (["sweep", QUICKSTART, "--trials", "0"], "trials=0: expected an integer in [1,"),
        (["sweep", QUICKSTART, "--sampler", "grid"], "sampler='grid': expected one of tpe"),
        (["sweep", QUICKSTART, "--name", "a b"], "name 'a b': expected up to 100 letters"),
        (
            ["sweep", QUICKSTART, "--tracking-uri", "http://127.0.0.1:9"],
            "tracking server 'http://127.0.0.1:9' does not answer",
        ),
        (["sweep", QUICKSTART, "--workspace", "README.md"], "cannot write in"),
        (["sweep", QUICKSTART, "--workspace", "/proc/runs"], "cannot write in '/proc'"),
        (
            ["sweep", QUICKSTART, "--scheduler", "median"],
            "scheduler='median': expected one of none",
        ),
        (["sweep", QUICKSTART, "--hours", "0"], "hours=0.0: expected a number in (0,"),
        (["sweep", QUICKSTART, "--device-hours", "nan"], "device_hours=nan: expected a number"),
        (["sweep", QUICKSTART, "--concurrency", "0"], "max_concurrent=0: expected an integer"),
        (["sweep", QUICKSTART, "--cpus", "1e-9"], "cpus=1e-09: expected at least 0.0001"),
        (["doctor", QUICKSTART, "--gpus", "1e-9"], "gpus=1e-09: expected at least 0.0001"),
        (["sweep", f"{LONG}.py"], "there is no file 'xxx"),
        (["train", QUICKSTART, "--plot", LONG], "File name too long"),
        (["train", QUICKSTART, "--plot", f"{LONG}/a.html"], "there is no folder 'xxx"),
        (["train", QUICKSTART, "--set", f"dataset=npz:{LONG}"], "there is no such file"),
        (["sweep", QUICKSTART, "--enqueue", "none.json"], "neither a sweep (existing: none) nor"),
        (["sweep", QUICKSTART, "--enqueue", "README.md"], "expected a JSON list such as"),
        (["sweep", QUICKSTART, "--known", "unknown"], "no sweep 'unknown' in workspace"),
        (["sweep", QUICKSTART, "--storage", "s3://key:secret@bucket"], "keys do not belong here"),
        (["sweep", QUICKSTART, "--storage", "/proc/none"], "--storage: cannot write /proc/none"),
        (["sweep", QUICKSTART, "--storage", "ftp://host/a"], "expected a path or s3://"),
        (
            [
                "sweep",
                QUICKSTART,
                "--study-storage",
                "postgresql+psycopg://me:pass-word@127.0.0.1:9/a",
            ],
            "postgresql+psycopg://me:***@127.0.0.1:9/a: the study of the sweep cannot be read",
        ),
        (["resume", "unknown"], "no sweep 'unknown' in workspace"),
        (["check", "unknown"], "no sweep 'unknown' in workspace"),
        (["extend", "unknown", "--trials", "3"], "no sweep 'unknown' in workspace"),
        (["extend", "unknown"], "expected --trials, --hours or --device-hours"),
        (["doctor", "missing.py"], "there is no file 'missing.py'"),
        (["status", "unknown"], "no sweep 'unknown' in workspace"),
        (["status", LONG, "--workspace", "experiments"], "no sweep 'xxx"),
        (["pareto", "unknown"], "no sweep 'unknown' in workspace"),
        (["status", "--workspace", "README.md"], "is not a folder"),
        (["sweep", QUICKSTART, "--metrics-port", "65536"], "expected a port in [0, 65535]"),
        (["ui"], "holds no mlflow.db"),
        (["ui", "first"], "ui first: MLflow's UI has all sweeps; --optuna shows one of them"),
        (["ui", "--optuna"], "holds no sweep yet"),
        (["ui", "unknown", "--optuna"], "no sweep 'unknown' in workspace"),
        (["train", "missing.py"], "there is no file 'missing.py'"),
        (["train", QUICKSTART, "--set", "epochs=many"], "epochs='many': expected an integer"),
        (["train", QUICKSTART, "--set", "device=cuda:99"], "device='cuda:99': this machine has"),
        (["train", QUICKSTART, "--plot", "none/a.html"], "there is no folder 'none'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments, message, rsas, tmp_path, monkeypatch, request
):
    def no_internet(*_, **__):
        raise OSError("unreachable")

    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", no_internet)
    monkeypatch.setenv("RSAS_DATA_DIR", str(tmp_path / "data"))
    before = sorted(request.config.rootpath.iterdir())
    code, _, err = rsas(*arguments)
    assert code == 2
    assert err.startswith("rsas: error: ")
    assert err.count("\n") == 1
    assert message.format(data=tmp_path / "data") in err
    assert list(tmp_path.iterdir()) == []
    assert sorted(request.config.rootpath.iterdir()) == before


def test_points_that_are_nested_too_deep_are_one_line(rsas, tmp_path):
    file = tmp_path / "points.json"
    file.write_text("[" * 20_000)
    code, _, err = rsas("sweep", QUICKSTART, "--enqueue", file)
    assert code == 2
    assert err.count("\n") == 1
    assert "expected a JSON list such as" in err
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def experiment(:", "cannot import .*SyntaxError"),
        ("import nothing_here", "ModuleNotFoundError: No module named 'nothing_here'"),
        ("def experiment():\n    return 1 / 0", "calling experiment.. failed .ZeroDivisionError"),
        ("def experiment():\n    return 3", "returned int, not an Experiment"),
        (
            "from rsas import TrainConfig\ndef experiment():\n    return TrainConfig(lr=-1)",
            r"lr=-1: expected a number in \(0, 1000\]",
        ),
    ],
)
def test_experiment_files_that_cannot_be_used(body, message, rsas, tmp_path):
    import re

    code, _, err = rsas("train", broken(tmp_path, body))
    assert code == 2
    assert err.count("\n") == 1
    assert re.search(message, err)


ENDING = """
import asyncio, dataclasses, sys
from torch import nn
from experiments.digits_quickstart import experiment as quickstart

class Ending(nn.Linear):
    def forward(self, x):
        sys.exit(0)

def of(model):
    made = quickstart()
    return dataclasses.replace(made, base=made.base.replace(model=f"{__file__}:{model}"))

def experiment():
    sys.exit(0)

def space():
    return dataclasses.replace(quickstart(), space=lambda trial: sys.exit(0))

def cancelled():
    def space(trial):
        raise asyncio.CancelledError("no reason")
    return dataclasses.replace(quickstart(), space=space)

def model():
    return of("no_net")

def forward():
    return of("net")

def no_net():
    sys.exit("no more")

def net():
    return nn.Sequential(nn.Flatten(), Ending(64, 10))
"""


@pytest.mark.parametrize(
    ("body", "function", "message"),
    [
        ("import sys\nsys.exit(0)", "experiment", "the code called sys.exit(0)"),
        (
            ENDING,
            "experiment",
            "calling experiment() failed (RuntimeError: the code called sys.exit(0))",
        ),
        (ENDING, "space", "<lambda>': RuntimeError: the code called sys.exit(0)"),
        (ENDING, "cancelled", "RuntimeError: the code raised CancelledError: no reason"),
        (
            ENDING,
            "model",
            "calling the function failed (RuntimeError: the code called sys.exit('no more'))",
        ),
        (ENDING, "forward", "in 10 classes: RuntimeError: the code called sys.exit(0)"),
    ],
)
def test_code_of_a_user_that_ends_the_process_is_one_line(body, function, message, rsas, tmp_path):
    code, out, err = rsas("sweep", f"{broken(tmp_path, body)}:{function}", "--name", "first")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("rsas: error: ")
    assert message in err
    assert not (tmp_path / "runs").exists()


def test_ctrl_c_in_code_of_a_user_is_an_interrupt(rsas, tmp_path):
    body = "def experiment():\n    raise KeyboardInterrupt"
    code, _, err = rsas("train", broken(tmp_path, body))
    assert (code, err.strip()) == (130, "")


@pytest.mark.parametrize("arguments", [["fly"], ["sweep"], ["sweep", QUICKSTART, "--trials", "x"]])
def test_usage_errors_have_exit_code_2(arguments, rsas):
    code, _, err = rsas(*arguments)
    assert code == 2
    assert "Error: " in err


def test_help_comes_at_once():
    """In CPU time, which other processes on the machine do not stretch."""
    times = []
    for _ in range(3):
        before = os.times()
        command = [sys.executable, "-c", "from rsas.cli import main; main()", "--help"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        after = os.times()
        user = after.children_user - before.children_user
        times.append(user + after.children_system - before.children_system)
    for command in ("train", "sweep", "resume", "status", "pareto", "export", "ui"):
        assert f"\n  {command} " in done.stdout
    assert min(times) < 0.5


def test_train_ends_with_a_table_and_a_picture(rsas, tmp_path):
    picture = tmp_path / "accuracy.html"
    code, out, _ = rsas("train", QUICKSTART, "--set", "epochs=3", "--plot", picture)
    assert code == 0
    assert "digits_quickstart, reinforced" in out
    assert str(picture) in out
    page = picture.read_text()
    assert "validation accuracy" in page
    assert "<script src=" not in page


def test_train_without_test_split_says_none(rsas, tmp_path):
    np.savez(tmp_path / "x.npz", x_train=np.random.rand(60, 5), y_train=np.arange(60) % 3)
    code, out, _ = rsas(
        "train", QUICKSTART, "--set", f"dataset=npz:{tmp_path / 'x.npz'}", "--set", "epochs=1"
    )
    assert code == 0
    assert "none" in out


def test_a_loss_that_is_lost_is_one_line_and_exit_code_1(rsas, tmp_path):
    np.savez(tmp_path / "x.npz", x_train=np.full((60, 5), 3e38), y_train=np.arange(60) % 3)
    data = f"dataset=npz:{tmp_path / 'x.npz'}"
    code, _, err = rsas("train", QUICKSTART, "--set", data, "--set", "method=dense")
    assert code == 1
    assert err.startswith("rsas: error: the training loss became nan in epoch 1, step ")
    assert err.count("\n") == 1


def test_an_empty_workspace(rsas):
    code, out, _ = rsas("status")
    assert code == 0
    assert "no sweeps in " in out
    code, out, _ = rsas("status", "--json")
    assert json.loads(out) == {"sweeps": []}


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_a_ui_that_others_can_reach_is_warned_of(host, warned, rsas, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    with contextlib.closing(sqlite3.connect(tmp_path / "runs" / "mlflow.db")) as database:
        database.execute("CREATE TABLE runs (run_uuid TEXT)")
        database.commit()
    monkeypatch.setattr(os, "execv", lambda *_: None)
    _, out, err = rsas("ui", "--host", host)
    assert f"http://{host}:5000" in out
    assert ("can read and change all runs" in err) == warned


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "node7", "192.168.7.7"])
def test_mlflow_answers_to_no_name_but_those_it_listens_on(host, rsas, tmp_path, monkeypatch):
    from mlflow.cli import server
    from mlflow.server import security_utils

    (tmp_path / "runs").mkdir()
    with contextlib.closing(sqlite3.connect(tmp_path / "runs" / "mlflow.db")) as database:
        database.execute("CREATE TABLE runs (run_uuid TEXT)")
        database.commit()
    commands = []
    monkeypatch.setattr(os, "execv", lambda _, command: commands.append(command))

    def answered():
        rsas("ui", "--host", host)
        words = commands[-1]
        asked = server.make_context("server", words[words.index("ui") + 1 :]).params
        hosts = asked["allowed_hosts"]
        return hosts.split(",") if hosts else security_utils.get_default_allowed_hosts()

    monkeypatch.delenv("MLFLOW_SERVER_ALLOWED_HOSTS", raising=False)
    hosts = answered()
    own = f"[{host}]" if ":" in host else host
    for name in (own, "localhost", "127.0.0.1", "[::1]"):
        assert security_utils.is_allowed_host_header(hosts, name)
        assert security_utils.is_allowed_host_header(hosts, f"{name}:5000")
    for name in ("elsewhere.example", "10.elsewhere.example", "192.168.0.1.elsewhere.example"):
        assert not security_utils.is_allowed_host_header(hosts, f"{name}:5000")
    monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", "proxy.example")
    assert answered() == ["proxy.example"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    fill(folder)
    fill(folder, "other", dataclasses.replace(EXPERIMENT, seed=1), trials=10)
    return folder


@pytest.mark.slow
def test_sweeps_side_by_side(rsas, made):
    code, out, _ = rsas("compare", "made", "other", "--at", "0.6,0.9", "--workspace", made)
    assert code == 0 and "hypervolume less that of made" in out and "no intervals" not in out
    code, text, _ = rsas("compare", "made", "other", "--json", "--workspace", made)
    told = json.loads(text)
    volumes = {row["sweep"]: row["hypervolume"] for row in told["sweeps"]}
    difference = volumes["other"] - volumes["made"]
    assert told["differences"][0]["hypervolume"] == pytest.approx(difference)
    uri = f"sqlite:///{made}/mlflow.db"
    assert json.loads(rsas("compare", "made", "other", "--json", "--tracking-uri", uri)[1]) == told


def test_a_report_of_a_sweep(rsas, made, tmp_path, monkeypatch):
    page = tmp_path / "r.html"
    code, out, _ = rsas("report", "made", "-o", page, "--workspace", made)
    assert (code, out) == (0, f"report: {page}\n")
    assert page.read_text("utf-8").startswith("<!doctype html>")
    code, _, err = rsas("report", "made", "none", "-o", tmp_path / "x.html", "--workspace", made)
    assert code == 2 and "no sweep 'none'" in err and not (tmp_path / "x.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "made"], "compare: expected at least two sweeps"),
        (["compare", "made", "other", "--at", "x"], "--at 'x': expected numbers such as 0.8,0.9"),
        (["report", "made", "-o", "no/where.html"], "there is no folder 'no'"),
    ],
)
def test_what_cannot_be_shown(arguments, message, rsas, made):
    code, out, err = rsas(*arguments, "--workspace", made)
    assert (code, out) == (2, "")
    assert message in err and err.count("\n") == 1


def test_networks_are_registered_by_what_they_are(rsas, made, tmp_path):
    code, out, _ = rsas("register", "made", "--as", "net", "--workspace", made)
    assert code == 0
    lines = [line.partition(": version ") for line in out.splitlines()]
    assert [line[0] for line in lines] == [
        f"models:/net@{alias}" for alias in ("knee", "most-accurate", "sparsest")
    ]
    shutil.copytree(made, tmp_path / "copy")
    (tmp_path / "copy" / "mlflow.db").unlink()
    code, out, err = rsas("register", "made", "--workspace", tmp_path / "copy")
    assert (code, out) == (2, "")
    assert "the knee trial of 'made', is not in MLflow; 'rsas resume made'" in err


def test_the_front_names_its_knee(rsas, made):
    told = json.loads(rsas("pareto", "made", "--json", "--workspace", made)[1])
    assert told["knee"] in {member["trial_id"] for member in told["front"]}
    assert f", knee {told['knee']}," in rsas("pareto", "made", "--workspace", made)[1]


def test_results_of_a_sweep_with_other_axes_are_not_told(rsas, tmp_path):
    """The name of its space is the same, and what the space asks for is not."""
    fill(tmp_path / "runs", trials=1)
    record = tmp_path / "runs" / "made" / "sweep.json"
    values = json.loads(record.read_text())
    quickstart, _ = load_experiment(QUICKSTART)
    values["experiment"] |= quickstart.to_dict() | {"axes": {}}
    record.write_text(json.dumps(values))
    code, _, err = rsas("sweep", QUICKSTART, "--name", "second", "--known", "made")
    assert code == 2
    assert "--known made: its axes differ from those of this sweep" in err
    assert not (tmp_path / "runs" / "second").exists()


def test_a_finished_sweep_is_tidied_by_a_resume(rsas, tmp_path):
    """A kill may have come between the study's last line and the files."""
    experiment, source = load_experiment(QUICKSTART)
    experiment = dataclasses.replace(experiment, budget=Budget(trials=1))
    folder, study = make(tmp_path / "runs", "killed", experiment, source)
    study.begin()
    found = rows(3, 0.9, 0.5)
    trial = TrialDir(folder.trials / "t0000")
    trial.begin()
    trial.append(found)
    trial.save(2, {})
    write_model(folder.models, "t0000", {})
    study.complete(0, found[-1])
    assert trial.checkpoints()
    assert rsas("resume", "killed")[0] == 0
    assert not trial.checkpoints()
    code, out, _ = rsas("check", "killed")
    assert code == 0, out


def test_a_storage_that_is_away_hides_no_other_sweep(rsas, monkeypatch):
    def status(folder):
        raise StorageError(f"the storage of {folder.name} is away")

    monkeypatch.setattr("rsas.sweep.files.workspace.Workspace.names", lambda _: ["lost"])
    lost = SimpleNamespace(status=lambda: status(SimpleNamespace(name="lost")))
    monkeypatch.setattr("rsas.sweep.files.workspace.Workspace.open", lambda *_: lost)
    code, _, err = rsas("status")
    assert (code, err) == (0, "rsas: the storage of lost is away\n")
    assert rsas("status", "lost")[0] == 2


@pytest.mark.parametrize("kind", [InputError, Halted, StorageError, RuntimeError])
@pytest.mark.parametrize("leak", LEAKS, ids=lambda leak: leak.name)
def test_no_secret_is_printed(leak, kind, rsas, monkeypatch):
    """A RuntimeError stands for a defect, of which the traceback is printed."""

    def fail(path):
        raise kind(leak.text)

    for name, value in leak.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("rsas.cli.look.open_workspace", fail)
    code, out, err = rsas("status")
    assert not any(secret in out + err for secret in leak.hidden)
    if kind is RuntimeError:
        assert code == 1 and err.startswith("Traceback") and "\nRuntimeError: " in err
    else:
        assert code == (1 if kind is Halted else 2)
        assert err.startswith("rsas: error: ") and err.count("\n") == 1


def test_no_secret_is_in_a_report(rsas, made, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "val_fraction0")
    record = tmp_path / "runs" / "made" / "sweep.json"
    shutil.copytree(made, tmp_path / "runs")
    kept = json.loads(record.read_text())
    kept["experiment"]["base"]["model"] = "at val_fraction0"
    record.write_text(json.dumps(kept))
    code, _, err = rsas("report", "made", "-o", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert code == 0, err
    assert "val_fraction0" not in page and "at ***" in page
