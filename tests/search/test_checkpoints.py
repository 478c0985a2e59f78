"""The folder of a trial."""

import json

import pytest
import torch

from rsas.search.checkpoints import TrialFolder

CPU = torch.device("cpu")


def test_newest_checkpoint_is_loaded_and_old_ones_go(tmp_path):
    folder = TrialFolder(tmp_path / "t0000")
    assert folder.load(CPU) is None
    for epoch in (1, 2, 3, 12):
        folder.save(epoch, {"epoch": epoch, "weights": torch.full((3,), epoch)})
    assert folder.load(CPU)["epoch"] == 12
    names = sorted(path.name for path in (tmp_path / "t0000").iterdir())
    assert names == ["checkpoint-000003.pt", "checkpoint-000012.pt"]


def test_damaged_checkpoint_is_kept_aside(tmp_path):
    folder = TrialFolder(tmp_path / "t0000")
    folder.save(1, {"epoch": 1})
    folder.save(2, {"epoch": 2, "weights": torch.zeros(1000)})
    newest = tmp_path / "t0000" / "checkpoint-000002.pt"
    newest.write_bytes(newest.read_bytes()[:700])
    assert folder.load(CPU)["epoch"] == 1
    assert (tmp_path / "t0000" / "checkpoint-000002.damaged").exists()


def test_any_damage_is_found(tmp_path):
    """Bytes flipped anywhere in the file, where torch raises errors of many kinds."""
    folder = TrialFolder(tmp_path / "t0000")
    folder.save(1, {"epoch": 1})
    folder.save(2, {"epoch": 2, "weights": torch.zeros(5), "name": "a" * 50})
    newest = tmp_path / "t0000" / "checkpoint-000002.pt"
    whole = newest.read_bytes()
    for place in range(0, len(whole), 37):
        newest.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        assert folder.load(CPU)["epoch"] in (1, 2)
        newest.with_suffix(".damaged").unlink(missing_ok=True)


def test_a_checkpoint_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    folder = TrialFolder(tmp_path / "t0000")
    folder.save(1, {"epoch": 1})

    def full(state, path):
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space"):
        folder.save(2, {"epoch": 2})
    assert [path.name for path in (tmp_path / "t0000").glob("*.pt")] == ["checkpoint-000001.pt"]
    assert folder.load(CPU)["epoch"] == 1


def test_checkpoint_that_would_run_code_is_not_loaded(tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    folder = TrialFolder(tmp_path / "t0000")
    folder.save(1, {"epoch": 1})
    torch.save({"epoch": 2, "payload": Payload()}, tmp_path / "t0000" / "checkpoint-000002.pt")
    assert folder.load(CPU)["epoch"] == 1
    assert not (tmp_path / "ran").exists()


def test_partial_files_are_not_taken_for_checkpoints(tmp_path):
    folder = TrialFolder(tmp_path / "t0000")
    folder.save(1, {"epoch": 1})
    (tmp_path / "t0000" / "checkpoint-000009.4711.partial").write_bytes(b"half")
    assert folder.load(CPU)["epoch"] == 1


def test_history_has_a_row_an_epoch(tmp_path):
    folder = TrialFolder(tmp_path / "t0000")
    assert folder.rows() == []
    for epoch, accuracy in ((1, 0.1), (2, 0.2), (2, 0.25), (3, 0.3)):  # epoch 2 trained again
        folder.append({"epoch": epoch, "val_accuracy": accuracy})
    with (tmp_path / "t0000" / "history.jsonl").open("a") as file:
        file.write(json.dumps({"epoch": 4})[:5])  # cut off by a kill
    expected = [
        {"epoch": 1, "val_accuracy": 0.1},
        {"epoch": 2, "val_accuracy": 0.25},
        {"epoch": 3, "val_accuracy": 0.3},
    ]
    assert folder.rows() == expected
    folder.append({"epoch": 4, "val_accuracy": 0.4})  # does not spoil the next line
    assert folder.rows() == [*expected, {"epoch": 4, "val_accuracy": 0.4}]
