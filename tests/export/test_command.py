"""``rsas export``: a file, a table, and no traceback."""

import dataclasses
import re
import sys

import onnxruntime
import pytest
import torch

from rsas import TrainConfig, Trainer, export
from rsas.export import Network
from rsas.records import trial_id
from rsas.sweep.experiment import load_experiment
from rsas.sweep.files.trial_dir import read_model, write_model
from rsas.sweep.mirror import tracker_of
from tests.made import make

QUICKSTART = "experiments/digits_quickstart.py"
CONFIG = TrainConfig(hidden=(20,), sparsity=0.9)
# Accuracy, sparsity; the last one is dominated and keeps no model.
POINTS = [(0.95, 0.5), (0.93, 0.9), (0.5, 0.95), (0.4, 0.4)]


@pytest.fixture(scope="module")
def states():
    """Three networks that are told apart by their seeds."""
    return [Trainer(CONFIG.replace(seed=seed)).final_state() for seed in range(3)]


@pytest.fixture
def sweep(tmp_path, monkeypatch, request, states):
    monkeypatch.chdir(request.config.rootpath)
    experiment, source = load_experiment(QUICKSTART)
    experiment = dataclasses.replace(
        experiment, base=CONFIG, space=lambda trial: {"seed": trial.number}
    )
    folder, study = make(tmp_path / "runs", "first", experiment, source)
    for accuracy, sparsity in POINTS:
        number = study.begin()
        study.config(number)  # which runs the space
        study.complete(number, {"epoch": 3, "val_accuracy": accuracy, "sparsity": sparsity})
        if number < len(states):
            write_model(folder.models, trial_id(number), states[number])
    study.repeat(study.begin(), same_as=1)
    return folder


@pytest.fixture
def rsas(monkeypatch, command_line, tmp_path):
    """``rsas export`` in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("RSAS_WORKSPACE", str(tmp_path / "runs"))
    monkeypatch.setattr("rsas.export.latency._SECONDS", 0.0)

    def run(*arguments):
        monkeypatch.chdir(tmp_path / "here")
        return command_line("export", *arguments)

    return run


@pytest.fixture
def without_onnx(monkeypatch):
    """The timing makes an ONNX file, which takes seconds."""
    monkeypatch.setattr("rsas.export.onnx_file.available", lambda: False)


def same(model, state):
    expected = Network.from_state(state, CONFIG).model.state_dict()
    found = model.state_dict()
    return all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("arguments", "file", "number"),
    [
        ([], "first-t0001.safetensors", 1),
        (["--trial", "t0000", "--format", "sparse"], "first-t0000.rsas", 0),
        (["--trial", "most-accurate"], "first-t0000.safetensors", 0),
        (["--trial", "sparsest", "--format", "sparse"], "first-t0002.rsas", 2),
        (["--trial", "t0004"], "first-t0004.safetensors", 1),  # it repeats that one
        (["-o", "net.bin", "--format", "sparse"], "net.bin", 1),
    ],
)
def test_the_trial_that_is_named_is_written(
    arguments, file, number, sweep, rsas, states, tmp_path, without_onnx
):
    code, out, err = rsas("first", *arguments)
    assert (code, err) == (0, "")
    assert [path.name for path in (tmp_path / "here").iterdir()] == [file]
    assert same(export.load(tmp_path / "here" / file), states[number])
    assert file in out


def test_the_table_has_what_was_measured(sweep, rsas, tmp_path):
    code, out, err = rsas("first", "--format", "sparse")
    assert (code, err) == (0, "")
    size = (tmp_path / "here" / "first-t0001.rsas").stat().st_size
    weights, on = 64 * 20 + 20 * 10, 128 + 20
    rows = {
        cells[0]: cells[1:]
        for line in out.splitlines()
        if len(cells := [cell.strip() for cell in line.split("│")[1:-1]]) > 1
    }
    assert rows["file, bytes"][1] == f"{size:,}"
    assert rows["prunable weights, not zero"] == [f"{weights:,}", f"{on:,}", "0.1000"]
    assert rows["FLOPs of one input"] == [f"{2 * weights:,}", f"{2 * on:,}", "0.1000"]
    for name in ("dense torch", "torch CSR", "scipy CSR", "dense onnxruntime"):
        assert all(float(cell) > 0 for cell in rows[name])
    assert rows["dense torch"][1::2] == ["1.00", "1.00"]
    verdicts = re.findall(r"at batch (\d+) the fastest sparse .*: sparse is (?:slow|fast)er", out)
    assert verdicts == ["1", "64"]
    assert "2:4 on GPUs: does not apply" in out


def test_onnx_runs_without_rsas(sweep, rsas, tmp_path, states):
    code, _, err = rsas("first", "--format", "onnx")
    assert (code, err) == (0, "")
    file = tmp_path / "here" / "first-t0001.onnx"
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    x = torch.randn(3, 1, 8, 8)
    expected = Network.from_state(states[1], CONFIG).model(x)
    (found,) = session.run(None, {"input": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected)


def test_a_file_that_is_there_is_replaced(sweep, rsas, tmp_path, states, without_onnx):
    (tmp_path / "here" / "first-t0001.safetensors").write_text("old")
    assert rsas("first")[0] == 0
    assert same(export.load(tmp_path / "here" / "first-t0001.safetensors"), states[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["second"], "no sweep 'second' in workspace"),
        (["first", "--format", "pickle"], "'pickle': expected one of safetensors, onnx, sparse"),
        (["first", "--trial", "t0099"], "trial 't0099': expected knee, most-accurate, sparsest"),
        (
            ["first", "--trial", "t0003"],
            "trial 't0003' has no final model: only those of the front are kept: t0000, "
            "t0001, t0002",
        ),
        (["first", "-o", "none/x"], "-o 'none/x': there is no folder 'none'"),
        (["first", "-o", "."], "-o '.': cannot write there"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(arguments, message, sweep, rsas, tmp_path):
    code, out, err = rsas(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("rsas: error: ") and err.count("\n") == 1
    assert message in err
    assert list((tmp_path / "here").iterdir()) == []


def test_a_damaged_model_is_one_line(sweep, rsas, tmp_path):
    file = sweep.path / "models" / "t0001" / "model.pt"
    file.write_bytes(file.read_bytes()[:-100])
    code, _, err = rsas("first")
    assert code == 2 and err.count("\n") == 1
    assert "final model of 't0001' cannot be read (it is damaged); 'rsas check first'" in err
    assert list((tmp_path / "here").iterdir()) == []


def put(sweep, trial, **changes):
    """Replace the model of a trial by one whose configuration differs."""
    state = read_model(sweep.models, trial)
    write_model(sweep.models, trial, {**state, "config": {**state["config"], **changes}})


@pytest.mark.parametrize("trial", ["t0001", "t0004"])  # the second repeats the first
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": [3]}, "names hidden=[3], but its sweep trained hidden=[20]: it is not the"),
        ({"seed": 4}, "names seed=4, but its sweep trained seed=1: it is not the model of"),
        ({"device": "cuda"}, "names device='cuda', but its sweep trained device='auto'"),
        ({"nothing": 1}, "has no configuration of rsas"),
        ({"lr": "fast"}, "has no configuration of rsas"),
    ],
)
def test_a_model_of_another_configuration_is_one_line(trial, changes, message, sweep, rsas):
    put(sweep, "t0001", **changes)
    code, out, err = rsas("first", "--trial", trial)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"the final model of 't0001' {message}" in err


def test_the_device_that_a_worker_chose_is_no_other_configuration(sweep, rsas, without_onnx):
    put(sweep, "t0001", device="cpu")
    assert rsas("first")[0] == 0


def test_of_several_seeds_the_model_is_that_of_the_first(sweep, rsas, without_onnx):
    sweep.record["experiment"]["seeds"] = [7, 8]
    sweep.set_budget(sweep.budget)  # writes the record
    put(sweep, "t0001", seed=7)
    assert rsas("first")[0] == 0
    put(sweep, "t0001", seed=1)
    assert "names seed=1, but its sweep trained seed=7" in rsas("first")[2]


EVIL = """
import pathlib
pathlib.Path({marker!r}).write_text("was run")
from torch import nn
def net():
    pathlib.Path({marker!r}).write_text("was run")
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""


@pytest.fixture
def evil(sweep, tmp_path):
    """A model file that names code; returns the file that exists once the code was run."""
    marker, source = tmp_path / "marker", tmp_path / "evil_net.py"
    source.write_text(EVIL.format(marker=str(marker)))
    put(sweep, "t0001", model=f"{source}:net")
    return marker


def test_no_code_is_run_that_a_model_names(evil, sweep, rsas, tmp_path):
    code, out, err = rsas("first")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "the final model of 't0001' names model=" in err
    assert not evil.exists()
    assert list((tmp_path / "here").iterdir()) == []


def test_no_code_is_run_that_a_model_names_when_it_is_logged(evil, sweep):
    for name in ("t0000", "t0002"):  # their exports take seconds
        sweep.models.delete(name)
    said = []
    tracker = tracker_of(sweep, sweep.study(), say=said.append)
    assert tracker.close("finished")
    (told,) = [line for line in said if line.startswith("t0001: its network is not in MLflow")]
    assert "names model=" in told
    assert not evil.exists()


def test_a_model_of_ones_own_is_found_where_the_sweep_found_it(
    sweep, rsas, states, tmp_path, monkeypatch, without_onnx
):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "exported_net.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    weight = torch.where(torch.rand(10, 64) < 0.5, -torch.rand(10, 64), 0.0)
    state = {
        **states[1],
        "config": {**states[1]["config"], "model": "exported_net:net"},
        "model": {"1.weight": weight, "1.bias": torch.zeros(10)},
        "masks": {"1": torch.ones(10, 64, dtype=torch.bool)},
    }
    write_model(sweep.models, "t0001", state)
    sweep.record["experiment"]["base"]["model"] = "exported_net:net"
    sweep.set_budget(sweep.budget)  # writes the record
    code, _, err = rsas("first")
    assert code == 2 and "cannot import 'exported_net'" in err
    sweep.record["python_path"] = [str(tmp_path / "modules")]
    sweep.set_budget(sweep.budget)  # writes the record
    assert rsas("first")[0] == 0

    def builder():
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))

    found = export.load(tmp_path / "here" / "first-t0001.safetensors", builder=builder)
    assert torch.equal(found[1].weight, weight)
