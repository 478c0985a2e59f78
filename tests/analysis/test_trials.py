"""A sweep as tables, from its workspace and from MLflow alone."""

import dataclasses
import json
import math
import shutil

import pandas as pd
import pytest

from rsas import InputError
from rsas.analysis import front, load_history, load_trials
from rsas.load import load_sweep
from tests.analysis.conftest import EXPERIMENT, rows_of


def uri(workspace):
    return f"sqlite:///{workspace}/mlflow.db"


@pytest.fixture(scope="module")
def sweep(made):
    return load_sweep("made", workspace=made)


def test_a_row_a_trial(made, sweep):
    frame = load_trials(sweep).set_index("trial_id")
    assert len(frame) == 12
    assert frame["state"].tolist()[:5] == ["complete", "pruned", "failed", "running", "complete"]
    assert frame["epochs"].tolist()[:5] == [4.0, 2.0, 0.0, 0.0, 4.0]
    assert frame["fidelity"].tolist()[:5] == [1.0, 0.5, 0.0, 0.0, 1.0]
    assert frame["device_seconds"].tolist()[:5] == [2.0, 1.0, 1.0, 0.0, 0.0]
    assert frame.loc["t0002", "reason"] == "out of memory"
    assert frame.loc["t0004", "same_as"] == "t0000"
    assert set(frame.index[frame["pareto"]]) == {
        trial.trial_id for trial in front(sweep.trials, EXPERIMENT.objectives)
    }
    accuracy = frame["val_accuracy"]
    assert (frame["seed1/val_accuracy"] - accuracy).dropna().round(9).unique().tolist() == [0.01]
    assert math.isnan(accuracy["t0001"]) and math.isnan(frame.loc["t0001", "seed0/val_accuracy"])
    kept = frame["checkpoint"] != ""
    assert (kept == frame["pareto"]).all()
    assert frame.loc[kept, "checkpoint"].iloc[0].startswith(f"{made}/made/models/t00")
    assert frame["run_id"].nunique() == 12 and (frame["run_id"] != "").all()
    assert frame["params.batch_size"].map(type).unique().tolist() == [int]
    has_rate = frame["params.method"] == "reinforced"
    assert (frame["params.measure_lr"].notna() == has_rate).all()


def test_mlflow_alone_tells_the_same(made, sweep):
    alone = load_sweep("made", tracking_uri=uri(made))
    here = ["checkpoint", "duration"]  # MLflow has times in milliseconds, and no files
    pd.testing.assert_frame_equal(
        load_trials(sweep).drop(columns=here), load_trials(alone).drop(columns=here)
    )
    assert load_trials(alone)["duration"].tolist() == pytest.approx(
        load_trials(sweep)["duration"].tolist(), abs=2e-3, nan_ok=True
    )
    order = ["trial_id", "epoch", "name", "layer", "seed"]
    both = [load_history(each).sort_values(order, ignore_index=True) for each in (sweep, alone)]
    pd.testing.assert_frame_equal(*both)
    assert (alone.state, alone.objectives) == ("finished", sweep.objectives)  # as close() said
    assert alone.experiment == sweep.experiment


def test_history_is_long(sweep):
    history = load_history(sweep, trials=["t0000", "t0001"])
    assert list(history) == ["trial_id", "epoch", "name", "layer", "seed", "value"]
    assert history.groupby("trial_id")["epoch"].max().to_dict() == {"t0000": 4, "t0001": 2}
    layers = history[(history["trial_id"] == "t0000") & (history["layer"] == "fc2")]
    assert layers["name"].unique().tolist() == ["sparsity"] and layers["seed"].isna().all()
    sparsity = sweep.trials[0].params["sparsity"]
    assert layers["value"].tolist() == [sparsity / 2] * 4
    first = history.query("trial_id == 't0000' and name == 'val_accuracy' and seed == 1")
    config = EXPERIMENT.base.replace(sparsity=sparsity)
    expected = [row["seed1/val_accuracy"] for row in rows_of(config, 4)]
    assert first["value"].tolist() == expected
    assert first["epoch"].tolist() == [1, 2, 3, 4]


def test_a_sweep_whose_server_is_away_has_no_runs(made, tmp_path):
    shutil.copytree(made, tmp_path / "copy")
    (tmp_path / "copy" / "mlflow.db").write_text("no database")
    frame = load_trials(load_sweep("made", workspace=tmp_path / "copy"))
    assert (frame["run_id"] == "").all() and len(frame) == 12


def test_a_sweep_whose_password_is_not_known_is_read(made, tmp_path):
    shutil.copytree(made, tmp_path / "copy")
    record = tmp_path / "copy" / "made" / "sweep.json"
    kept = json.loads(record.read_text()) | {"tracking_uri": "http://me:***@server"}
    record.write_text(json.dumps(kept))
    frame = load_trials(load_sweep("made", workspace=tmp_path / "copy"))
    assert (frame["run_id"] == "").all() and len(frame) == 12


def test_a_sweep_without_trials_has_a_table_without_rows(made, sweep):
    empty = load_trials(dataclasses.replace(sweep, trials=[]))
    assert len(empty) == 0
    assert {"trial_id", "state", "pareto", "epochs", "fidelity", "run_id"} <= set(empty)


def test_where_there_is_no_such_sweep(made, monkeypatch):
    with pytest.raises(InputError, match="no sweep 'x' in workspace"):
        load_sweep("x", workspace=made)
    with pytest.raises(InputError, match="has no sweep 'x'"):
        load_sweep("x", tracking_uri=uri(made))
    monkeypatch.setenv("RSAS_WORKSPACE", str(made))
    assert len(load_sweep("other").trials) == 10
