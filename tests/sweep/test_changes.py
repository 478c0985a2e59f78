"""The file of a sweep changes between its beginning and a resume."""

import dataclasses
import functools
import io
import json
import sys

import pytest
from rich.console import Console

from rsas import InputError, TrainConfig
from rsas.sweep import commands
from rsas.sweep.changes import check_axes, definition, differences
from rsas.sweep.execute.cluster import Connection
from rsas.sweep.experiment import Budget, Experiment, Objective, load_experiment
from rsas.sweep.files.workspace import Workspace
from rsas.sweep.study.study import Study

NEW = "; new trials follow the space as it is now"
KEPT = "; the sweep keeps what it began with"


def space(trial, low=0.5, choices=("static", "set"), log=False):
    return {
        "sparsity": trial.suggest_float("sparsity", low, 0.9, log=log),
        "method": trial.suggest_categorical("method", choices),
    }


def only_sparsity(trial):
    return {"sparsity": trial.suggest_float("sparsity", 0.5, 0.9)}


def with_lr(trial):
    return {**space(trial), "lr": trial.suggest_float("lr", 0.1, 1.0, log=True)}


EXPERIMENT = Experiment(
    name="test",
    base=TrainConfig(epochs=3),
    space=space,
    objectives=(Objective("val_accuracy", "max", worst=0.1),),
)


def changed(**changes):
    return definition(dataclasses.replace(EXPERIMENT, **changes))


def kept():
    """The definition as ``sweep.json`` gives it back."""
    return json.loads(json.dumps(definition(EXPERIMENT)))


def float_axis(low, high, log=False):
    return f"FloatDistribution(high={high}, log={log}, low={low}, step=None)"


METHODS = "CategoricalDistribution(choices=('static', 'set'))"


def named(function):
    return f"{__name__}:{function}"


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({}, []),
        (
            {"space": with_lr},
            [
                f"the space asks for lr as {float_axis(0.1, 1.0, True)}, a new parameter" + NEW,
                f"space: the file has {named('with_lr')!r}, and had {named('space')!r}{NEW}",
            ],
        ),
        (
            {"space": only_sparsity},
            [
                f"the space does not ask for method, which was {METHODS}{NEW}",
                f"space: the file has {named('only_sparsity')!r}, and had {named('space')!r}{NEW}",
            ],
        ),
        (
            {"base": TrainConfig(epochs=5, hidden=(7,))},
            [
                f"base.hidden: the file has [7], and had [1000]{KEPT}",
                f"base.epochs: the file has 5, and had 3{KEPT}",
            ],
        ),
        (
            {"budget": Budget(trials=7, hours=2), "sampler": "random", "seed": 3},
            [
                f"budget.trials: the file has 7, and had 64{KEPT}",
                f"budget.hours: the file has 2.0, and had None{KEPT}",
                f"sampler: the file has 'random', and had 'tpe'{KEPT}",
                f"seed: the file has 3, and had 0{KEPT}",
            ],
        ),
        (
            {"objectives": (Objective("val_loss", "min", worst=3.0),)},
            [
                "objectives: the file has [{'name': 'val_loss', 'direction': 'min', 'worst': 3.0}]"
                ", and had [{'name': 'val_accuracy', 'direction': 'max', 'worst': 0.1}]" + KEPT
            ],
        ),
    ],
)
def test_each_difference_is_one_line(changes, lines):
    assert differences(kept(), changed(**changes)) == lines
    check_axes(kept(), changed(**changes))


def test_a_range_that_changed_under_the_same_name():
    then = definition(dataclasses.replace(EXPERIMENT, space=functools.partial(space, low=0.5)))
    now = definition(dataclasses.replace(EXPERIMENT, space=functools.partial(space, low=0.1)))
    assert differences(then, now) == [
        f"the space asks for sparsity as {float_axis(0.1, 0.9)}, "
        f"which was {float_axis(0.5, 0.9)}{NEW}"
    ]
    check_axes(then, now)


@pytest.mark.parametrize(
    ("space", "axis"),
    [
        (functools.partial(space, choices=("static", "set", "rigl")), "method"),
        (functools.partial(space, log=True), "sparsity"),
        (lambda trial: {"sparsity": trial.suggest_int("sparsity", 0, 1)}, "sparsity"),
    ],
)
def test_axes_that_no_study_can_hold_beside_the_old_ones_are_refused(space, axis, tmp_path):
    with pytest.raises(InputError, match=f"asks for {axis} as .*: one study cannot hold both"):
        check_axes(kept(), changed(space=space))
    # Optuna says so, too.
    study = Study(tmp_path / "study", EXPERIMENT)
    study.config(study.begin())
    study = Study(tmp_path / "study", dataclasses.replace(EXPERIMENT, space=space))
    with pytest.raises(ValueError, match="does not support dynamic value space|Cannot set diff"):
        study.config(study.begin())


def test_rare_branches_are_the_same_for_every_seed_of_the_sampler():
    def rare(trial):
        if trial.suggest_float("sparsity", 0.0, 1.0) > 0.93:
            trial.suggest_float("rare", 0.0, 1.0)
        return {}

    found = [changed(space=rare, seed=seed)["axes"] for seed in range(8)]
    assert all(each == found[0] for each in found)


FILE = """
from rsas import TrainConfig
from rsas.sweep.experiment import Budget, Experiment, Objective

def space(trial):
    return {{"sparsity": trial.suggest_float("sparsity", {low}, 0.9)}}

def experiment():
    return Experiment(
        name="changing",
        base=TrainConfig(epochs={epochs}, hidden=(10,)),
        space=space,
        objectives=(Objective("val_accuracy", "max", worst=0.1),),
        budget=Budget(trials=3),
    )
"""


@pytest.fixture
def file(tmp_path):
    """The file of a sweep; called to write another content."""

    def write(low=0.5, epochs=1, more=""):
        (tmp_path / "changing.py").write_text(FILE.format(low=low, epochs=epochs) + more)
        return tmp_path / "changing.py"

    write()
    return write


@pytest.fixture
def begun(tmp_path, monkeypatch, file):
    """A sweep that has run nothing yet, since there is no Ray."""
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.setattr(commands, "_connect", lambda *_: None)
    monkeypatch.setattr(commands, "run", lambda folder, *_: folder.status(mine=True))
    defined, source = load_experiment(str(file()))
    experiment = dataclasses.replace(defined, base=defined.base.replace(lr=0.2))  # --set lr=0.2
    workspace = Workspace(tmp_path / "runs")
    console = Console(file=io.StringIO(), width=1000)
    commands.launch(
        experiment,
        source,
        name="first",
        defined=defined,
        workspace=workspace,
        console=console,
        connection=Connection(None, source),
    )
    return workspace


def resumed(workspace):
    """What a resume says about the file."""
    console = Console(file=io.StringIO(), width=1000)
    connection = Connection(None, "study.py:experiment")
    commands.resume("first", workspace=workspace, console=console, connection=connection)
    return [line for line in console.file.getvalue().splitlines() if line.startswith("note: ")]


def test_a_file_that_did_not_change_is_not_mentioned(begun):
    assert resumed(begun) == []
    assert "changes" not in begun.open("first").record


def test_a_resume_tells_what_changed_and_keeps_it_once(begun, file, command_line, monkeypatch):
    file(low=0.25)
    space_line = (
        f"the space asks for sparsity as {float_axis(0.25, 0.9)}, "
        f"which was {float_axis(0.5, 0.9)}{NEW}"
    )
    for _ in range(2):
        (told,) = resumed(begun)
        assert told == f"note: {file(low=0.25)}:experiment: {space_line}"
    file(low=0.25, epochs=22)
    base_line = f"base.epochs: the file has 22, and had 1{KEPT}"
    assert [told.partition(":experiment: ")[2] for told in resumed(begun)] == [
        space_line,
        base_line,
    ]
    folder = begun.open("first")
    assert [change["what"] for change in folder.record["changes"]] == [space_line, base_line]
    assert folder.record["experiment"]["base"]["epochs"] == 1

    monkeypatch.setattr("rsas.sweep.audit.check.check", lambda _: [])
    monkeypatch.setenv("COLUMNS", "1000")
    asked = ("check", "first", "--workspace", begun.path)
    code, out, _ = command_line(*asked)
    assert code == 0
    times = [change["time"] for change in folder.record["changes"]]
    assert f"note: since {times[0]}: {space_line}\n" in out
    assert f"note: since {times[1]}: {base_line}\n" in out
    code, out, _ = command_line(*asked, "--json")
    assert code == 0
    assert json.loads(out)["changes"] == folder.record["changes"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            "import random\ndef space(trial):\n    trial.suggest_float('sparsity', 0.5, 0.9)\n"
            "    return {'lr': random.uniform(0.1, 1)}\n",
            "asked twice for one trial, it gives lr=",
        ),
        (
            "def space(trial):\n    trial.suggest_int('sparsity', 0, 1)\n    return {}\n",
            "changing.py:experiment: the space asks for sparsity as IntDistribution",
        ),
        ("def experiment():\n    raise SystemExit\n", "the code called sys.exit(None)"),
    ],
)
def test_a_file_with_which_no_resume_can_go_on(more, message, begun, file):
    file(more=more)
    with pytest.raises(InputError) as told:
        resumed(begun)
    assert message in str(told.value)
    assert "\n" not in str(told.value)
    assert "changes" not in begun.open("first").record


def test_a_file_that_is_gone_is_one_line(begun, file, command_line):
    file().unlink()
    with pytest.raises(InputError, match=r"changing.py:experiment': there is no file '"):
        resumed(begun)
