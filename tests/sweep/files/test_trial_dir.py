"""The folder of a trial."""

import errno
import io
import json
import math
import os
import socket
import zipfile

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rsas.errors import StorageError
from rsas.sweep.files import file_store
from rsas.sweep.files.file_store import FileStore
from rsas.sweep.files.trial_dir import Superseded, TrialDir, read_model, write_model

CPU = torch.device("cpu")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "t0000"


@pytest.fixture
def folder(path):
    return TrialDir(FileStore(path))


def begun(path):
    """As another process."""
    folder = TrialDir(FileStore(path))
    folder.begin()
    return folder


def rows(*epochs, seconds=1.0, **columns):
    return [{"epoch": epoch, "seconds": seconds, **columns} for epoch in epochs]


def names(path):
    return sorted(file.name for file in path.iterdir())


# Checkpoints.


def packed(content):
    """What torch.save wrote, deflated; torch.load itself reads that."""
    found = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as source,
        zipfile.ZipFile(found, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for member in source.infolist():
            target.writestr(member.filename, source.read(member))
    return found.getvalue()


def test_checkpoints_that_unpack_to_more_than_their_size_are_damaged(folder, path):
    for epoch in (1, 2):
        folder.save(epoch, {"epoch": epoch, "weights": torch.zeros(2**20)})
    newest = path / "checkpoint-000002.pt"
    newest.write_bytes(packed(newest.read_bytes()))
    assert newest.stat().st_size < 2**14
    assert torch.load(newest)["weights"].shape == (2**20,)
    assert folder.damaged() == ["checkpoint-000002.pt"]
    state, damaged = folder.load(CPU)
    assert (state["epoch"], damaged) == (1, ["checkpoint-000002.pt"])


def test_final_models_of_the_format_before_zip_are_damaged(path):
    """Torch would read these with other code."""
    write_model(FileStore(path), "t0000", {"weights": torch.zeros(3)})
    torch.save(
        {"weights": torch.zeros(3)},
        path / "t0000" / "model.pt",
        _use_new_zipfile_serialization=False,
    )
    with pytest.raises(zipfile.BadZipFile):
        read_model(FileStore(path), "t0000")


def test_newest_checkpoint_is_loaded_and_old_ones_go(folder, path):
    assert folder.load(CPU) == (None, [])
    assert folder.checkpoints() == []
    for epoch in (1, 2, 3, 12):
        folder.save(epoch, {"epoch": epoch, "weights": torch.full((3,), epoch)})
    state, damaged = folder.load(CPU)
    assert state["epoch"] == 12 and state["weights"].tolist() == [12, 12, 12]
    assert damaged == []
    assert folder.checkpoints() == ["checkpoint-000012.pt", "checkpoint-000003.pt"]
    assert names(path) == ["checkpoint-000003.pt", "checkpoint-000012.pt"]


def test_damaged_checkpoints_are_kept_aside_and_named(folder, path):
    for epoch in (1, 2):
        folder.save(epoch, {"epoch": epoch, "weights": torch.zeros(1000)})
    newest = path / "checkpoint-000002.pt"
    half = newest.read_bytes()[:700]
    newest.write_bytes(half)
    assert folder.damaged() == ["checkpoint-000002.pt"]
    assert names(path) == ["checkpoint-000001.pt", "checkpoint-000002.pt"]
    state, damaged = folder.load(CPU)
    assert folder.damaged() == []
    assert state["epoch"] == 1 and damaged == ["checkpoint-000002.pt"]
    assert names(path) == ["checkpoint-000001.pt", "checkpoint-000002.damaged"]
    assert (path / "checkpoint-000002.damaged").read_bytes() == half
    (path / "checkpoint-000001.pt").write_bytes(b"")
    assert folder.load(CPU) == (None, ["checkpoint-000001.pt"])
    assert folder.load(CPU) == (None, [])


def test_each_damaged_checkpoint_can_be_set_aside(folder, path):
    for epoch in (1, 2):
        folder.save(epoch, {"epoch": epoch})
    (path / "checkpoint-000001.pt").write_bytes(b"")
    assert folder.set_aside() == ["checkpoint-000001.pt"]
    assert names(path) == ["checkpoint-000001.damaged", "checkpoint-000002.pt"]
    assert folder.set_aside() == []


def test_any_damage_is_found(folder, path):
    """Bytes flipped anywhere in the file, where torch raises errors of many kinds."""
    folder.save(1, {"epoch": 1})
    folder.save(2, {"epoch": 2, "weights": torch.zeros(5), "name": "a" * 50})
    newest = path / "checkpoint-000002.pt"
    whole = newest.read_bytes()
    weights = whole.index(bytes(20), whole.index(b"data/0"))
    for place in (weights + 3, *range(0, len(whole), 37)):
        newest.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        state, damaged = folder.load(CPU)
        assert (state["epoch"], damaged) in ((2, []), (1, ["checkpoint-000002.pt"]))
        if not damaged:  # no part of the content
            assert state["name"] == "a" * 50 and torch.equal(state["weights"], torch.zeros(5))
        newest.with_suffix(".damaged").unlink(missing_ok=True)


def test_a_storage_that_does_not_answer_is_no_damage(folder, path, monkeypatch):
    folder.save(1, {"epoch": 1})

    def away(self, name):
        raise OSError("network is down")

    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "read", away)
        for look in (lambda: folder.load(CPU), folder.damaged):
            with pytest.raises(OSError, match="network is down"):
                look()
    assert names(path) == ["checkpoint-000001.pt"]
    assert folder.load(CPU) == ({"epoch": 1}, [])


def test_a_checkpoint_that_goes_while_it_is_looked_for_is_no_damage(folder, monkeypatch):
    for epoch in (1, 2):
        folder.save(epoch, {"epoch": epoch})
    monkeypatch.setattr(
        folder, "checkpoints", lambda: ["checkpoint-000009.pt", "checkpoint-000002.pt"]
    )
    assert folder.load(CPU) == ({"epoch": 2}, [])


def test_a_checkpoint_that_cannot_be_written_costs_no_other(folder, path, monkeypatch):
    for epoch in (1, 2):
        folder.save(epoch, {"epoch": epoch})

    def full(self, place, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "_write", full)
        with pytest.raises(StorageError, match="No space left"):
            folder.save(3, {"epoch": 3})
    assert names(path) == ["checkpoint-000001.pt", "checkpoint-000002.pt"]


def test_checkpoint_that_would_run_code_is_not_loaded(folder, path):
    class Payload:
        def __reduce__(self):
            return (open, (str(path / "ran"), "w"))

    folder.save(1, {"epoch": 1})
    torch.save({"epoch": 2, "payload": Payload()}, path / "checkpoint-000002.pt")
    assert folder.damaged() == ["checkpoint-000002.pt"]
    assert folder.load(CPU) == ({"epoch": 1}, ["checkpoint-000002.pt"])
    assert not (path / "ran").exists()


def test_other_files_are_not_taken_for_checkpoints(folder, path):
    folder.save(1, {"epoch": 1})
    for name in (".checkpoint-000009.pt.4711.partial", "checkpoint-000009.pt.bak", "error.txt"):
        (path / name).write_bytes(b"half")
    assert folder.load(CPU) == ({"epoch": 1}, [])


def test_an_ended_trial_keeps_all_but_its_checkpoints(path):
    folder = begun(path)
    folder.append(rows(1, 2))
    for epoch in (1, 2):
        folder.save(epoch, {"epoch": epoch})
    folder.set_error("Traceback: é")
    folder.set_record({"state": "COMPLETE", "values": [0.5, float("inf")]})
    folder.clear()
    assert names(path) == ["error.txt", "history-0001.jsonl", "trial.json"]
    assert (path / "error.txt").read_text("utf-8") == "Traceback: é"
    record = folder.record_in((path / "trial.json").read_bytes())
    assert record == {"state": "COMPLETE", "values": [0.5, float("inf")]}


# The fence.


def test_who_began_later_alone_may_write(path):
    first = begun(path)
    first.append(rows(1))
    first.save(1, {"epoch": 1, "by": "first"})
    second = begun(path)
    before = {name: (path / name).read_bytes() for name in names(path)}
    with pytest.raises(Superseded):
        first.append(rows(2))
    with pytest.raises(Superseded):
        first.save(1, {"epoch": 1, "by": "late"})
    assert {name: (path / name).read_bytes() for name in names(path)} == before
    second.append(rows(2))
    second.save(2, {"epoch": 2})
    third = begun(path)
    for superseded in (first, second):
        with pytest.raises(Superseded):
            superseded.append(rows(3))
    third.append(rows(3))
    assert [row["epoch"] for row in third.history().rows] == [1, 2, 3]


def test_who_begins_again_goes_on(path):
    folder = begun(path)
    folder.append(rows(1, 2))
    folder.begin()
    folder.append(rows(2))
    assert folder.history().epochs_trained == 3


# Histories.


def test_histories_of_all_attempts_are_one(path):
    assert TrialDir(FileStore(path)).history().rows == []
    first = begun(path)
    first.append(rows(1, 2, seconds=0.5, val_accuracy=0.1))
    first.append(rows(3, seconds=0.5, val_accuracy=0.1))
    second = begun(path)
    second.append(rows(3, 4, seconds=2.0, val_accuracy=0.2))
    begun(path)  # and died at once
    found = TrialDir(FileStore(path)).history()
    assert found.rows == [
        *rows(1, 2, seconds=0.5, val_accuracy=0.1),
        *rows(3, 4, seconds=2.0, val_accuracy=0.2),
    ]
    assert found.epochs_trained == 5
    assert found.seconds == 3 * 0.5 + 2 * 2.0


def test_of_ten_attempts_the_last_one_counts(path):
    for attempt in range(11):
        begun(path).append(rows(1, val_accuracy=attempt))
    found = TrialDir(FileStore(path)).history()
    assert found.rows == rows(1, val_accuracy=10) and found.epochs_trained == 11


def test_rows_are_in_the_order_of_epochs(path):
    begun(path).append(rows(2, 3))  # the line of the first one was lost
    begun(path).append(rows(1))
    assert TrialDir(FileStore(path)).history().rows == rows(1, 2, 3)


def test_each_line_says_who_computed_it(path, monkeypatch):
    monkeypatch.delenv("RAY_NODE_ID", raising=False)
    folder = begun(path)
    folder.append(rows(1))
    monkeypatch.setenv("RAY_NODE_ID", "abc")
    folder.append(rows(2))
    lines = [json.loads(x) for x in (path / "history-0001.jsonl").read_text().splitlines()]
    here = {"seconds": 1.0, "pid": os.getpid(), "host": socket.gethostname()}
    assert lines == [{"epoch": 1, **here}, {"epoch": 2, **here, "node": "abc"}]


def test_a_line_that_could_not_be_written_can_be_given_again(path, monkeypatch):
    folder = begun(path)
    with monkeypatch.context() as patch:
        patch.setattr(file_store, "_PATIENCE", 0.0)
        patch.setattr(FileStore, "_write", lambda *_: os.stat("/nowhere/at/all"))
        with pytest.raises(StorageError):
            folder.append(rows(1))
    folder.append(rows(1, 2))
    found = folder.history()
    assert found.rows == rows(1, 2)
    assert (found.epochs_trained, found.seconds) == (2, 2.0)


RUBBISH = st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")) | st.sampled_from(
    [b"", b"{}", b"[]", b"[7]", b"null", b"7", b'"epoch"', b'{"seconds": 1}', b'{"epoch": []}']
)


@settings(max_examples=30)
@example(damage=[b"[7]"], at=1)
@given(damage=st.lists(RUBBISH, min_size=1, max_size=5), at=st.integers(0, 2))
def test_damaged_lines_are_skipped(damage, at, tmp_path_factory):
    path = tmp_path_factory.mktemp("t")
    begun(path).append(rows(1, 2))
    file = path / "history-0001.jsonl"
    lines = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([*lines[:at], *damage, *lines[at:]]))
    second = begun(path)
    second.append(rows(3))
    found = second.history()
    assert found.rows == rows(1, 2, 3)
    assert (found.epochs_trained, found.seconds) == (3, 3.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("epoch", wrong) for wrong in ("2", None, [2], math.nan, math.inf, 2.5, 0, -1, 10**400)),
        *(("seconds", wrong) for wrong in ("1", None, {}, math.nan, math.inf, -1.0, 10**400)),
        ("val_accuracy", "high"),
        ("val_accuracy", {}),
        ("val_accuracy", None),
        (5, None),  # the line is no object
    ],
)
def test_edited_rows_are_skipped(path, name, value):
    begun(path).append(rows(1, 3, val_accuracy=0.5))
    row = rows(2, val_accuracy=0.5)[0] | {name: value} if isinstance(name, str) else name
    with (path / "history-0001.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    found = TrialDir(FileStore(path)).history()
    assert [row["epoch"] for row in found.rows] == [1, 3]
    assert (found.epochs_trained, found.seconds) == (2, 2.0)


def test_a_line_cut_anywhere_costs_itself_alone(path):
    begun(path).append(rows(1, 2))
    file = path / "history-0001.jsonl"
    whole = file.read_bytes()
    first = whole.index(b"\n") + 1
    for end in range(first, len(whole) - 1):
        file.write_bytes(whole[:end])
        assert TrialDir(FileStore(path)).history().rows == rows(1)


# Models.


def test_models_come_back_as_they_were(tmp_path):
    state = {
        "config": {"hidden": [20], "lr": 0.1},
        "model": {"fc1.weight": torch.randn(3, 4)},
        "masks": {"fc1": torch.tensor([True, False])},
    }
    models = FileStore(tmp_path)
    write_model(models, "t0007", state)
    assert (tmp_path / "t0007" / "model.pt").exists()
    found = read_model(models, "t0007")
    assert found["config"] == state["config"]
    assert torch.equal(found["model"]["fc1.weight"], state["model"]["fc1.weight"])
    assert torch.equal(found["masks"]["fc1"], state["masks"]["fc1"])
    assert read_model(models, "t0008") is None


def test_damaged_models_are_errors_and_run_nothing(tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    write_model(FileStore(tmp_path), "t0000", {"epoch": 1})
    file = tmp_path / "t0000" / "model.pt"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(zipfile.BadZipFile):
        read_model(FileStore(tmp_path), "t0000")
    torch.save({"payload": Payload()}, file)
    with pytest.raises(Exception, match="[Ww]eights"):
        read_model(FileStore(tmp_path), "t0000")
    assert not (tmp_path / "ran").exists()
