"""``rsas export``: a file, a table, and no traceback."""

import re
import sys

import onnxruntime
import pytest
import torch

from rsas import TrainConfig, Trainer, export
from rsas.export import Network
from rsas.records import trial_id
from rsas.search.checkpoints import read_model, write_model
from rsas.search.experiment import load_experiment
from tests.made import make

QUICKSTART = "experiments/digits_quickstart.py"
# Accuracy, sparsity; the last one is dominated and keeps no model.
POINTS = [(0.95, 0.5), (0.93, 0.9), (0.5, 0.95), (0.4, 0.4)]


@pytest.fixture(scope="module")
def states():
    """Three networks that are told apart by their seeds."""
    config = TrainConfig(hidden=(20,), sparsity=0.9)
    return [Trainer(config.replace(seed=seed)).final_state() for seed in range(3)]


@pytest.fixture
def sweep(tmp_path, monkeypatch, request, states):
    monkeypatch.chdir(request.config.rootpath)
    experiment, source = load_experiment(QUICKSTART)
    folder, book = make(tmp_path / "runs", "first", experiment, source)
    for accuracy, sparsity in POINTS:
        number = book.begin()
        book.complete(number, {"epoch": 3, "val_accuracy": accuracy, "sparsity": sparsity})
        if number < len(states):
            write_model(folder.models, trial_id(number), states[number])
    book.repeat(book.begin(), same_as=1)
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
    expected = Network.from_state(state).model.state_dict()
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
    expected = Network.from_state(states[1]).model(x)
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
            "trial 't0003' has no final model: those of the front are kept; there is: t0000, "
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


def test_a_model_of_another_sweep_is_one_line(sweep, rsas):
    state = read_model(sweep.models, "t0001")
    write_model(sweep.models, "t0001", {**state, "config": {**state["config"], "hidden": [3]}})
    code, _, err = rsas("first")
    assert code == 2 and err.count("\n") == 1
    assert "a final model cannot be read" in err


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
    code, _, err = rsas("first")
    assert code == 2 and "cannot import 'exported_net'" in err
    sweep.record["python_path"] = [str(tmp_path / "modules")]
    sweep.set_budget(sweep.budget)  # writes the record
    assert rsas("first")[0] == 0

    def builder():
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))

    found = export.load(tmp_path / "here" / "first-t0001.safetensors", builder=builder)
    assert torch.equal(found[1].weight, weight)
