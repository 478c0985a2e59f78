"""Folders and buckets: the same tests for both."""

import errno
import os
import re
from pathlib import Path

import pytest
import torch

from rsas import InputError
from rsas.errors import StorageError
from rsas.sweep.files import file_store
from rsas.sweep.files.file_store import FileStore
from rsas.sweep.files.trial_dir import Superseded, TrialDir, read_model, write_model
from tests.servers import s3


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with s3(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.resource)])
def storage(request, tmp_path, monkeypatch):
    """A place that does not exist yet."""
    if request.param == "folder":
        return FileStore(tmp_path / "not" / "there")
    running = request.getfixturevalue("server")
    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)
    return FileStore(f"{running.uri}/{tmp_path.name}")


@pytest.fixture
def naps(monkeypatch):
    """Seconds for which it would have slept."""
    taken = []
    monkeypatch.setattr(file_store.time, "sleep", taken.append)
    return taken


def failing(monkeypatch, *errors):
    """Writing fails with each of the errors, and then no more."""
    left, write = list(errors), FileStore._write

    def flaky(self, path, content):
        if left:
            raise left.pop(0)
        write(self, path, content)

    monkeypatch.setattr(FileStore, "_write", flaky)
    return left


def test_what_is_written_is_read(storage):
    large = bytes(range(256)) * 4096
    storage.write("a.txt", b"few")
    storage.write("deep/er/b.bin", large)
    storage.write("empty", b"")
    again = FileStore(storage.location)  # as another process
    assert again.read("a.txt") == b"few"
    assert again.read("deep/er/b.bin") == large
    assert again.read("empty") == b""
    assert again.read("nothing") is None
    assert again.read("nowhere/nothing") is None
    names = ["empty", "nothing", "a.txt", "deep/er/b.bin"]
    assert again.read_all(names) == [b"", None, b"few", large]
    storage.write("a.txt", b"")
    assert again.read("a.txt") == b""


def test_private_files_are_the_owners_from_the_beginning(tmp_path, monkeypatch):
    storage = FileStore(tmp_path)
    modes, opened = [], os.open

    def look(path, *options):
        file = opened(path, *options)
        modes.append(os.fstat(file).st_mode & 0o777)
        return file

    monkeypatch.setattr(os, "open", look)
    before = os.umask(0o022)
    try:
        storage.write("error.txt", b"old")  # readable by all
        (storage / "deep").private.write("error.txt", b"1")
        storage.private.write("error.txt", b"2")
        storage.write("other", b"3")
    finally:
        os.umask(before)
    assert modes == [0o644, 0o600, 0o600, 0o644]
    assert (tmp_path / "error.txt").stat().st_mode & 0o777 == 0o600
    assert (storage.read("error.txt"), storage.read("deep/error.txt")) == (b"2", b"1")


def test_names_and_what_exists(storage):
    assert storage.names() == []
    assert not storage.exists("t1")
    for name in ("t1/a", "t1/b", "t0/a", "z", "t1/deep/er"):
        storage.write(name, b"1")
    assert storage.names() == ["t0", "t1", "z"]
    assert (storage / "t1").names() == ["a", "b", "deep"]
    found = [name for name in ("t0", "t1/a", "z", "t", "t1/c", "t9/a") if storage.exists(name)]
    assert found == ["t0", "t1/a", "z"]


def test_below_a_file_there_is_nothing(storage):
    storage.write("file", b"x")
    assert (storage / "file").read("inner") is None
    assert (storage / "file").names() == []


def test_names_that_are_no_text_are_left_out(tmp_path):
    for name in (b"text", b"t\xff"):
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))).touch()
    assert FileStore(tmp_path).names() == ["text"]


def test_files_and_folders_are_deleted(storage):
    for name in ("t1/a", "t1/deep/er", "t2/a", "t2/b"):
        storage.write(name, b"1")
    storage.delete("t2/a")
    storage.delete("t1")
    assert storage.names() == ["t2"] and (storage / "t2").names() == ["b"]
    assert not storage.exists("t1/deep/er")
    storage.delete("t1")  # gone already
    storage.delete("t2/a")


def test_files_are_moved(storage):
    storage.write("t1/a", b"1")
    storage.write("t1/old", b"0")
    (storage / "t1").move("a", "b")
    (storage / "t1").move("a", "c")  # gone already: another process has done it
    (storage / "t1").move("b", "old")
    assert (storage / "t1").names() == ["old"]
    assert storage.read("t1/old") == b"1"


def test_folders_are_moved(storage):
    for name in ("t1/a", "t1/deep/er", "t10/a"):
        storage.write(name, name.encode())
    storage.move("t1", "t1.ghost")
    storage.move("t1", "t2")  # gone already
    assert storage.names() == ["t1.ghost", "t10"] and not storage.exists("t1")
    assert storage.read("t1.ghost/a") == b"t1/a"
    assert storage.read("t1.ghost/deep/er") == b"t1/deep/er"


def test_a_move_that_fails_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(file_store, "_PATIENCE", 0.0)
    FileStore(tmp_path).write("a", b"1")
    with pytest.raises(OSError, match="nowhere"):
        FileStore(tmp_path).move("a", "nowhere/b")


def test_a_reader_sees_the_old_content_until_all_is_written(storage, monkeypatch):
    storage.write("a", b"old")
    reader, seen = FileStore(storage.location), []

    def look():
        seen.append(reader.read("a"))

    if storage.is_local:
        replace = Path.replace
        monkeypatch.setattr(Path, "replace", lambda *paths: look() or replace(*paths))
    else:
        storage._fs = Watched(storage._fs, look)
    storage.write("a", b"new")
    look()
    assert seen == [b"old", b"new"]


class Watched:
    """A file system that calls a function when a file is written and not closed yet."""

    def __init__(self, inner, act):
        self._inner, self._act = inner, act

    def open_output_stream(self, path):
        self._stream = self._inner.open_output_stream(path)
        return self

    def __enter__(self):
        return self

    def write(self, content):
        self._stream.write(content)
        self._act()

    def __exit__(self, *_):
        self._stream.close()


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_a_failure_in_the_middle_leaves_the_old_content_and_nothing_else(
    error, tmp_path, monkeypatch
):
    storage = FileStore(tmp_path)
    storage.write("a", b"old")

    def fail(_):
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises((StorageError, KeyboardInterrupt)):
        storage.write("a", b"new content")
    assert os.listdir(tmp_path) == ["a"]
    assert storage.read("a") == b"old"


def test_what_a_kill_left_in_the_middle_is_no_file(tmp_path):
    FileStore(tmp_path).write("a", b"1")
    (tmp_path / ".a.0123abcd.partial").write_bytes(b"half")
    assert FileStore(tmp_path).names() == ["a"]


@pytest.mark.parametrize("name", ["t" * 300, "folder", "loop"])
def test_a_name_that_can_hold_no_file_is_told_at_once(name, tmp_path, naps):
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(StorageError, match=f"^cannot read {re.escape(str(tmp_path))}/{name} "):
        FileStore(tmp_path).read(name)
    assert naps == []


@pytest.mark.parametrize(
    "code",
    [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT],
)
def test_a_storage_that_is_full_or_closed_is_an_error_at_once(code, storage, naps, monkeypatch):
    failing(monkeypatch, *[OSError(code, os.strerror(code))] * 100)
    message = f"cannot write {storage.location}/t1/a ([Errno {code}] {os.strerror(code)})"
    with pytest.raises(StorageError, match=re.escape(message)):
        (storage / "t1").write("a", b"1")
    assert naps == []


def test_a_hiccup_is_waited_for(storage, naps, monkeypatch):
    failing(monkeypatch, *[OSError("network is down")] * 3)
    storage.write("a", b"1")
    assert storage.read("a") == b"1"
    assert len(naps) == 3 and naps == sorted(naps) and 0 < naps[0] < naps[-1] < 6


def test_no_hiccup_is_waited_for_forever(storage, naps, monkeypatch):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "IQoJb3JpZ2luX2Vj")
    left = failing(monkeypatch, *[OSError("network is down\nfor IQoJb3JpZ2luX2Vj")] * 3)
    left[0] = OSError("refused IQoJb3JpZ2luX2Vj\nby the proxy")
    monkeypatch.setattr(file_store, "_PATIENCE", 0.0)
    with pytest.raises(StorageError) as caught:
        storage.write("a", b"1")
    assert str(caught.value) == f"cannot write {storage.location}/a (refused ***)"
    assert len(left) == 2


def test_no_other_error_is_taken_for_a_hiccup(storage, naps):
    with pytest.raises(TypeError):
        storage.write("a", "text")
    assert naps == []


def test_a_folder_in_it_has_the_same_connection(storage, monkeypatch):
    def no_other(place):
        raise AssertionError(f"a connection to {place}")

    monkeypatch.setattr(file_store, "_open", no_other)
    inner = storage / "trials" / "t1"
    inner.write("a", b"1")
    assert storage.read("trials/t1/a") == b"1"
    assert inner.location == f"{storage.location}/trials/t1"
    assert (storage.names(), inner.names()) == (["trials"], ["a"])


def test_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    home, here = FileStore("~/one"), FileStore("two/")
    assert here.location == "two"
    monkeypatch.chdir("/")
    home.write("a", b"1")
    here.write("a", b"2")
    assert (tmp_path / "one" / "a").read_bytes() == b"1"
    assert (tmp_path / "two" / "a").read_bytes() == b"2"
    assert FileStore(tmp_path).is_local
    assert not FileStore("s3://bucket/folder?region=us-east-1").is_local


SECRET = "wJalrXUtnFEMI/K7MDENG"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (f"s3://AKIA:{SECRET}@bucket/runs", "'s3://AKIA:***@bucket/runs': keys do not belong"),
        (
            f"s3://bucket/f?secret_key={SECRET}",
            "'s3://bucket/f?secret_key=***': keys do not belong",
        ),
        (f"s3://bucket/{SECRET}", "'s3://bucket/***': keys do not belong here; set AWS_ACCESS"),
        ("s3://AKIA:***@bucket/runs", "keys do not belong here"),  # copied from a record
        ("ftp://host/runs", "'ftp://host/runs': expected a path or s3://BUCKET/FOLDER ("),
        ("runs/\udcff", r"storage 'runs/\udcff': expected a path in UTF-8"),
        ("s3://b/f?nonsense=1", "'s3://b/f?nonsense=1': expected a path or s3://BUCKET/FOLDER ("),
    ],
)
def test_what_is_no_place_is_refused_in_one_line(place, message, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with pytest.raises(InputError) as caught:
        FileStore(place)
    assert message in str(caught.value)
    assert SECRET not in str(caught.value) and "\n" not in str(caught.value)


def test_a_trial_lives_in_it(storage):
    """All of a trial's files, on what is no file system."""
    trials, models = storage / "trials", storage / "models"
    first = TrialDir(trials / "t0000")
    first.begin()
    first.append([{"epoch": 1, "seconds": 0.5}, {"epoch": 2, "seconds": 0.5}])
    for epoch in (1, 2, 3):
        first.save(epoch, {"epoch": epoch, "weights": torch.full((100,), float(epoch))})
    assert first.checkpoints() == ["checkpoint-000003.pt", "checkpoint-000002.pt"]
    newest = (trials / "t0000").read("checkpoint-000003.pt")
    (trials / "t0000").write("checkpoint-000003.pt", newest[:500])

    second = TrialDir(trials / "t0000")
    second.begin()
    with pytest.raises(Superseded):
        first.append([{"epoch": 3, "seconds": 0.5}])
    state, damaged = second.load(torch.device("cpu"))
    assert state["epoch"] == 2 and damaged == ["checkpoint-000003.pt"]
    second.append([{"epoch": 3, "seconds": 1.0}])
    history = second.history()
    assert [row["epoch"] for row in history.rows] == [1, 2, 3]
    assert (history.epochs_trained, history.seconds) == (3, 2.0)
    second.clear()
    assert second.checkpoints() == [] and trials.names() == ["t0000"]

    write_model(models, "t0000", state)
    assert torch.equal(read_model(models, "t0000")["weights"], torch.full((100,), 2.0))
    models.delete("t0000")
    assert read_model(models, "t0000") is None and models.names() == []


# What rsas.sweep.files.file_store lacks.


def test_a_place_with_a_query_has_folders():
    parent = FileStore("s3://bucket/runs?region=us-east-1")
    again = FileStore((parent / "trials").location)  # as in a worker
    assert again._path == (parent / "trials")._path == "bucket/runs/trials"


def test_an_uri_of_a_file_system(tmp_path, monkeypatch):
    monkeypatch.setattr(file_store, "_PATIENCE", 0.0)
    FileStore(f"file://{tmp_path}/runs").write("t1/a", b"1")
    assert (tmp_path / "runs" / "t1" / "a").read_bytes() == b"1"


@pytest.mark.parametrize("action", ["read", "exists", "delete"])
def test_a_hiccup_is_waited_for_by_readers(action, tmp_path, naps):
    storage = FileStore(tmp_path)
    storage.write("a", b"1")
    storage._fs = Away(storage._fs)
    getattr(storage, action)("a")


class Away:
    """A file system that does not answer at first."""

    def __init__(self, inner):
        self._inner, self._left = inner, 2

    def __getattr__(self, name):
        self._left -= 1
        if self._left >= 0:
            raise OSError("network is down")
        return getattr(self._inner, name)
