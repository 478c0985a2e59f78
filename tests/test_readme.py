"""The code and the commands of the documents are valid.

Commands that show a finished sweep are run. Commands that start a sweep run up to the start of Ray.
Commands of servers are parsed. Other programs get files that exist. Any other command is a failure.
"""

import contextlib
import dataclasses
import json
import os
import re
import runpy
import shlex
import subprocess
import tomllib
from pathlib import Path

import mlflow
import pytest
import typer

from rsas import data
from rsas.analysis import knee
from rsas.cli.app import app
from rsas.load import load_sweep
from rsas.seed_study import COLUMNS
from rsas.sweep.experiment import Budget
from rsas.sweep.files.workspace import Workspace
from rsas.tracking import read_models, register
from tests.analysis.conftest import EXPERIMENT, fill
from tests.documents import DOCUMENTS, ROOT, all_blocks, blocks, name_of, prose

COMMANDS = typer.main.get_command(app).commands
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

LOOKS = {"check", "compare", "export", "pareto", "register", "report", "status", "train"}
STARTS = {"doctor", "extend", "repeat", "resume", "sweep"}
SERVES = {"dashboard", "ui"}
OTHERS = {"base64", "curl", "docker", "git", "kubectl", "prometheus", "uv"}


def commands(block):
    """The words of each command of a shell block, without what is written into its input."""
    script = re.sub(r"<<'(\w+)'\n.*?^\1$", "", block, flags=re.DOTALL | re.MULTILINE)
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = []
        for token in lexer:
            if set(token) <= set("|&;"):
                yield words
                words = []
            else:
                words.append(token)
        if words:
            yield words


def all_commands():
    return [
        pytest.param(words, id=f"{name_of(document)}: {' '.join(words)[:60]}")
        for document, block in all_blocks("sh")
        for words in commands(block)
    ]


def parse(words):
    """The values of a command of rsas by its own command line, without running it."""
    command = COMMANDS[words[0]]
    return command.make_context(words[0], list(words[1:])).params


# A folder such as the documents speak of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Experiments, the files that the documents name, and the sweeps ``first`` and ``second``."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("experiments", "search_spaces"):
        (folder / name).symlink_to(ROOT / name)
    for _, code in all_blocks("python"):
        if named := re.match(r"# (\w+\.py)\n", code):
            (folder / named[1]).write_text(code)
    finished = dataclasses.replace(EXPERIMENT, budget=Budget(trials=8))
    fill(folder / "runs", "first", finished)
    fill(folder / "runs", "second", dataclasses.replace(finished, seed=1), trials=10)
    sweep = load_sweep("first", workspace=folder / "runs")
    models = read_models(sweep.tracking_uri, sweep.runs)
    middle = knee(sweep.trials, sweep.objectives).trial_id
    register(sweep.tracking_uri, "first", {"knee": models[middle]})
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    """Make it the current folder, in which Python finds modules."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    yield folder
    mlflow.set_tracking_uri(None)


@pytest.fixture
def rsas(here, command_line, monkeypatch, tmp_path):
    """Run a command of rsas, but start no Ray and no training of minutes.

    A sweep ends at once, with the status of ``first``. Runs of ``repeat`` have made accuracies.
    """
    status = Workspace(here / "runs").open("first").status()
    monkeypatch.setattr(
        "rsas.sweep.execute.cluster.Connection", lambda *_: contextlib.nullcontext()
    )
    for name in ("launch", "resume"):
        monkeypatch.setattr(f"rsas.sweep.commands.{name}", lambda *_, **__: status)
    monkeypatch.setattr("rsas.sweep.commands.diagnose", lambda *_, **__: [])
    load = data.load
    monkeypatch.setattr("rsas.data.load", lambda *_: load("digits"))  # others need a download

    def rows(runs, **_):
        for run in runs:
            row = (run.name, run.config.seed, run.config.sparsity, 0.9, 0.9, 1.0, run.key)
            yield dict(zip(COLUMNS, row, strict=True))

    monkeypatch.setattr("rsas.seed_study.train_all", rows)

    def run(*words):
        if words[0] == "sweep":
            monkeypatch.setenv("RSAS_WORKSPACE", str(tmp_path / "new"))
        if words[0] == "export" and "onnx" not in words:  # its latency takes seconds, too
            monkeypatch.setattr("rsas.export.onnx_file.available", lambda: False)
        return command_line(*words)

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        pytest.param(code, id=f"{name_of(path)}-{number}")
        for number, (path, code) in enumerate(all_blocks("python"))
    ],
)
def test_python_blocks_run(code, here):
    (here / "block.py").write_text(code)
    runpy.run_path("block.py", run_name="__main__")


# Commands


def check_rsas(words, rsas):
    """See that a command of rsas runs, or that its command line takes it."""
    values = parse(words)
    if words[0] in SERVES:
        return
    assert words[0] in LOOKS | STARTS, f"rsas {words[0]}: is it run, or only parsed?"
    code, _, err = rsas(*words)
    assert (code, err) == (0, "")
    for option in ("output", "plot", "table"):
        if values.get(option):
            assert values[option].stat().st_size > 0


def check_make(words):
    subprocess.run(["make", "--dry-run", *words], cwd=ROOT, check=True, capture_output=True)


def check_script(words):
    """See that a script of the repository is there, and that ``rsas sweep`` takes its options."""
    assert os.access(ROOT / words[0], os.X_OK), words[0]
    parse(["sweep", *words[2:]])


def check_others(words):
    """See that the files of the repository that a command names are there."""
    for word in words[1:]:
        path = word.rpartition("=")[2]
        top = path.split("/")[0]
        if top not in ("", ".", "..") and (ROOT / top).exists():
            assert (ROOT / path).exists(), path


def check_command(words, rsas):
    program = Path(words[0]).name
    if program == "rsas":
        check_rsas(words[1:], rsas)
    elif program == "make":
        check_make(words[1:])
    elif program == "submit.sh":
        check_script(words)
    else:
        assert program in OTHERS, f"{program}: a command of a kind that this test does not know"
        check_others(words)


@pytest.mark.slow
@pytest.mark.parametrize("words", all_commands())
def test_commands_are_valid(words, rsas):
    check_command(words, rsas)


@pytest.mark.parametrize(
    "words",
    [
        "frobnicate --all",
        "make swep",
        "rsas unknown",
        "rsas sweep experiments/digits_quickstart.py --trails 8",
        "rsas sweep experiments/absent.py",
        "rsas sweep experiments/digits_quickstart.py --set epoch=2",
        "rsas resume third",
        "rsas repeat experiments/digits_quickstart.py --vs method=rigel",
        "rsas ui --optnua",
        "rsas export first --trial t0099",
        "experiments/clusters/submit.sh name experiments/digits_quickstart.py --gpu 1",
        "experiments/clusters/absent/submit.sh name experiments/digits_quickstart.py",
        "kubectl apply -f experiments/clusters/absent.yaml",
        "prometheus --config.file=dashboards/grafana/absent.yml",
    ],
)
def test_a_wrong_command_is_a_failure(words, rsas):
    wrong = (AssertionError, KeyError, typer.TyperException, subprocess.CalledProcessError)
    with pytest.raises(wrong):
        check_command(words.split(), rsas)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_commands_within_sentences_are_valid(document):
    """Their names and options; the values may stand for others, such as NAME."""
    for code in re.findall(r"`([^`]+)`", prose(document)):
        words = code.split()
        if words[0] == "rsas" and len(words) > 1:
            options = {o for parameter in COMMANDS[words[1]].params for o in parameter.opts}
            assert {word for word in words if word.startswith("-")} <= options, code
        elif words[0] == "make":
            check_make(words[1:])
        elif words[:2] == ["pip", "install"]:
            (extra,) = re.findall(r"rsas\[([\w-]+)\]", code)
            assert extra in PROJECT["optional-dependencies"], code
        elif words[0].startswith("--") and document.parent.name != "clusters":  # has others', too
            every = {o for c in COMMANDS.values() for p in c.params for o in p.opts}
            assert words[0] in every, code


def test_a_shell_takes_all_blocks():
    for document, block in all_blocks("sh"):
        done = subprocess.run(["bash", "-n", "-c", block], capture_output=True, text=True)
        assert done.returncode == 0, f"{document}: {done.stderr}"


# What commands print


def shape(value):
    """The keys of JSON, with lists as their first entry."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    return [shape(value[0])] if isinstance(value, list) and value else None


def test_json_is_as_described(rsas, folder):
    described = [json.loads(text) for text in blocks(ROOT / "rsas/sweep/README.md", "json")]
    status, pareto, check = described
    damaged = Workspace(folder / "runs").open("second")
    damaged.note_changes(["a note"])
    (damaged.path / "trials" / "stray").mkdir()
    printed = {
        command: json.loads(rsas(*command.split(), "--json")[1])
        for command in ("status first", "status", "pareto first", "check second")
    }
    (damaged.path / "trials" / "stray").rmdir()
    assert shape(printed["status first"]) == shape(status)
    assert printed["status first"]["state"] in status["state"].split(" | ")
    assert list(printed["status"]) == ["sweeps"]
    for member in (printed["pareto first"]["front"][0], pareto["front"][0]):
        assert member.pop("params")  # each space has its own
    assert shape(printed["pareto first"]) == shape(status | pareto)
    assert shape(printed["check second"] | {"repaired": []}) == shape(check)
