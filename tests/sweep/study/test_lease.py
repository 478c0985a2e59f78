"""Leases: one process writes a study, whatever becomes of the others."""

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import types
import uuid
from pathlib import Path

import optuna
import pytest

from rsas import InputError
from rsas.errors import Halted, LeaseLost
from rsas.sweep.experiment import load_experiment
from rsas.sweep.files.workspace import Workspace
from rsas.sweep.study import lease
from rsas.sweep.study.database import DatabaseLeases
from rsas.sweep.study.journal import Damaged, Journal, whole_lines
from rsas.sweep.study.lease import Lease, Owner, acquire, is_alive
from rsas.sweep.study.study import Study
from tests import made
from tests.servers import postgres

RESULT = {"val_accuracy": 0.5, "sparsity": 0.5}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with postgres(tmp_path_factory.mktemp("postgres")) as running:
        yield running


@pytest.fixture(params=["file", "sqlite", pytest.param("postgres", marks=pytest.mark.resource)])
def sweep(request, tmp_path, monkeypatch):
    """A sweep without trials, and its experiment; its study in each kind of storage."""
    storage = None
    if request.param == "sqlite":
        storage = f"sqlite:///{tmp_path / 'study.db'}"
    elif request.param == "postgres":
        storage = request.getfixturevalue("server").url
        monkeypatch.setenv("RSAS_STUDY_STORAGE", storage)  # other processes need its password
    experiment, source = load_experiment("experiments/digits_quickstart.py")
    options = {"study_storage": storage, "id": uuid.uuid4().hex}
    folder, _ = made.make(tmp_path / "runs", "first", experiment, source, **options)
    return folder, experiment


HOLD = """
import os, sys, time
from pathlib import Path
from rsas.sweep.files.workspace import Workspace
with Workspace(Path(sys.argv[1])).open("first").locked():
    if "fork" in sys.argv and not os.fork():
        time.sleep(60)  # a child that outlives the driver
    print(os.getpid(), flush=True)
    time.sleep(60)
"""


class Holder:
    """A process that runs a sweep."""

    def __init__(self, folder, *options):
        command = [sys.executable, "-c", HOLD, str(folder.workspace), *options]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert int(self.process.stdout.readline()) == self.process.pid

    def send(self, kind):
        self.process.send_signal(kind)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def end(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def hold():
    held = []

    def begin(folder, *options):
        held.append(Holder(folder, *options))
        return held[-1]

    yield begin
    for each in held:
        each.end()


def count(folder):
    return len(folder.study().optuna_study.trials)


def test_a_second_driver_is_refused_and_a_dead_one_replaced(sweep, hold):
    folder, experiment = sweep
    first = hold(folder)
    message = f"^sweep 'first' is being run by process {first.process.pid}; 'rsas status first'"
    for name in ("path", "copy"):  # also in a copy of the workspace
        place = folder.workspace if name == "path" else folder.workspace.with_name("copy")
        if name == "copy":
            shutil.copytree(folder.workspace, place)
        other = Workspace(place).open("first")
        with pytest.raises(InputError, match=message), other.locked():
            pass
        assert other.status().state == "running"
    first.kill()
    assert folder.status().state == "interrupted"
    with folder.locked():
        folder.study(experiment).begin()
    assert count(folder) == 1


def test_a_child_of_a_dead_driver_holds_nothing(sweep, hold):
    folder, experiment = sweep
    hold(folder, "fork").kill()
    with folder.locked():
        folder.study(experiment).begin()
    assert count(folder) == 1


def test_a_stopped_driver_is_replaced_on_request_alone(sweep, hold):
    folder, _ = sweep
    first = hold(folder)
    first.send(signal.SIGSTOP)
    os.waitid(os.P_PID, first.process.pid, os.WSTOPPED | os.WNOWAIT)
    message = f"held by process {first.process.pid}, which is stopped; 'kill -CONT"
    with pytest.raises(InputError, match=message), folder.locked():
        pass
    with folder.locked(take_over=True):
        assert not folder.is_lost()


def test_a_driver_that_was_replaced_writes_nothing_more(sweep):
    folder, experiment = sweep
    other = Workspace(folder.workspace).open("first")
    with folder.locked():
        study = folder.study(experiment)
        study.complete(study.begin(), RESULT)
        running = study.begin()
        with other.locked(take_over=True):
            assert folder.is_lost() and not other.is_lost()
            writes = (
                study.begin,
                lambda: study.complete(running, RESULT),
                lambda: study.note_record({"id": "mine"}),
                lambda: study.enqueue([{"sparsity": 0.5}]),
            )
            for write in (*writes, study.check_lease, lambda: study.trials(folder.objectives)):
                with pytest.raises(LeaseLost, match="has taken the sweep over; this process ends"):
                    write()
            theirs = other.study(experiment)
            trials = theirs.trials(folder.objectives)
            assert [trial.number for trial in trials if trial.state == "running"] == [running]
            assert theirs.record() == folder.record
            assert theirs.queue() == []
            theirs.complete(running, RESULT)
        # Nor does its end release what the other one has.
    assert count(folder) == 2
    assert folder._leases().lease().is_released


def test_of_two_that_see_a_dead_driver_one_takes_over(sweep, monkeypatch):
    """Both look before either of them writes."""
    folder, _ = sweep
    other = Workspace(folder.workspace).open("first")
    seen = other._leases().lease()

    class Late:
        def lease(self):
            return seen

        def put(self, lease, over):
            other._leases().put(lease, over)

    with folder.locked():
        with pytest.raises(InputError, match="has taken the sweep over"):
            acquire(Late(), "first", take_over=False)
        assert not folder.is_lost()


def test_a_lock_file_left_by_a_kill_does_not_hold_up(sweep, hold, monkeypatch):
    folder, experiment = sweep
    lock = Path(f"{folder.journal}.lock")
    hold(folder).kill()
    lock.touch()
    monkeypatch.setattr("optuna.storages.journal._file.time.sleep", _fail)
    with folder.locked():
        folder.study(experiment).begin()


def _fail(*_):
    raise AssertionError("waits")


def test_owners_that_cannot_be_seen_are_not_called_dead(monkeypatch):
    me = lease._me()
    assert is_alive(me) is True
    dead = subprocess.Popen(["true"])
    try:
        assert os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
        assert is_alive(dataclasses.replace(me, pid=dead.pid)) is False  # a zombie
    finally:
        dead.wait()
    changes = {
        "started": (me.started + 1, False),  # the number was given to another process
        "boot": ("another", False),  # the machine was started since
        "namespace": ("pid:[1]", None),  # of another container
        "machine": ("another", None),
    }
    for name, (value, expected) in changes.items():
        assert is_alive(dataclasses.replace(me, **{name: value})) is expected, name


def test_the_lease_of_a_machine_out_of_sight_needs_a_request(sweep, monkeypatch):
    folder, experiment = sweep
    far = Owner(7, 1, "node-3", "another machine", "boot", "")
    store = folder._leases()
    store.put(Lease(1, far), over=store.lease())
    with pytest.raises(InputError, match="held by process 7 on node-3, and this machine cannot"):
        folder.locked().__enter__()
    assert folder.status().state == "interrupted"  # nothing was heard of it
    with folder.locked(take_over=True):
        folder.study(experiment).begin()


@pytest.mark.parametrize("line", ['["study_id", "rsas:lease"]', '["rsas:lease", ' + "[" * 100_000])
def test_a_lease_is_found_beside_lines_that_are_none(tmp_path, line):
    path = tmp_path / "study.journal"
    mine = Lease(1, lease._me())
    Journal(path).put(mine, over=None)
    with path.open("a") as file:
        file.write(line + "\n")
    assert Journal(path).lease() == mine


# The journal.


@pytest.fixture
def journal(tmp_path):
    """A journal with a study of three trials."""
    path = tmp_path / "study.journal"
    study = optuna.create_study(storage=optuna.storages.JournalStorage(Journal(path)))
    for _ in range(3):
        study.ask()
    return path


def study_in(path):
    return optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(Journal(path)))


def trials(path):
    return study_in(path).trials


def test_optuna_reads_the_file_as_its_own(journal):
    backend = optuna.storages.journal.JournalFileBackend(str(journal))
    study = optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(backend))
    assert study.trials == trials(journal)


def test_a_journal_that_was_appended_to_itself_has_its_trials_once(journal):
    before, content = trials(journal), journal.read_bytes()
    journal.write_bytes(content + content)
    assert trials(journal) == before
    study_in(journal).ask()
    assert len(trials(journal)) == 4
    assert whole_lines(journal)[:4] == content.splitlines(keepends=True)


def test_a_lease_that_was_appended_again_is_held_by_nobody(journal):
    """As by a copy of lines in which the driver had not ended yet."""
    for epoch in (1, 2):
        assert acquire(Journal(journal), "first", take_over=True).epoch == epoch
    held = Journal(journal).lease()
    before = journal.read_bytes()
    released = dataclasses.replace(held, is_released=True)
    Journal(journal).put(released, over=held)
    with journal.open("ab") as file:
        file.write(before)
    assert Journal(journal).lease() == released
    assert acquire(Journal(journal), "first", take_over=False).epoch == 3


def test_lines_of_a_writer_that_knew_no_lease_are_skipped(journal, tmp_path):
    """As of a process that was stopped between its look at the lease and its write."""
    stray = tmp_path / "stray"
    stray.write_bytes(journal.read_bytes())
    late = optuna.load_study(
        study_name=None, storage=optuna.storages.JournalStorage(Journal(stray))
    )
    late.ask()
    (line,) = stray.read_bytes().splitlines(keepends=True)[4:]
    now = study_in(journal)
    now.ask()
    expected = trials(journal)
    with journal.open("ab") as file:
        file.write(line)
    assert trials(journal) == expected
    now.ask()
    assert len(trials(journal)) == 5


@pytest.mark.parametrize("tail", [b"", b'{"n":4,"op'], ids=["whole", "cut"])
def test_a_writer_that_was_stopped_cuts_nothing_off(journal, tail, monkeypatch):
    """As one that lost its lock between its look at the file and its write."""
    slow, opened = study_in(journal), Path.open
    with journal.open("ab") as file:
        file.write(tail)  # of a write before, in which a process was killed

    def stopped(path, mode="r", *args, **options):
        if mode == "ab":
            monkeypatch.undo()
            Path(f"{journal}.lock").unlink()
            study_in(journal).ask()
            Path(f"{journal}.lock").touch()
        return opened(path, mode, *args, **options)

    monkeypatch.setattr(Path, "open", stopped)
    with pytest.raises(Halted, match="another process writes .*study.journal, too"):
        slow.ask()
    assert len(trials(journal)) == 4


@pytest.mark.parametrize("is_read_only", [False, True])
def test_a_lock_that_cannot_be_removed_is_not_waited_for(journal, is_read_only, monkeypatch):
    """As in a file system that was mounted read-only in the middle of a write."""
    study, before = study_in(journal), journal.read_bytes()
    Path(f"{journal}.lock").touch()
    flags = os.statvfs(journal.parent).f_flag & ~os.ST_RDONLY | (os.ST_RDONLY * is_read_only)
    monkeypatch.setattr(os, "statvfs", lambda _: types.SimpleNamespace(f_flag=flags))
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr("optuna.storages.journal._file.time.sleep", _fail)
    message = "Read-only file system" if is_read_only else "Permission denied"
    with pytest.raises(OSError, match=message):
        study.ask()
    assert journal.read_bytes() == before


def test_every_damage_is_seen(journal):
    """Each line that is lost, and each byte that is changed, but the last of the file."""
    content = journal.read_bytes()
    lines = content.splitlines(keepends=True)
    for index in range(len(lines) - 1):
        journal.write_bytes(b"".join(lines[:index] + lines[index + 1 :]))
        with pytest.raises(Damaged, match=f"lines {index} to {index} are missing"):
            trials(journal)
    for place in range(len(content) - 1):
        journal.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(Damaged, match=r"damaged|missing"):
            trials(journal)


def test_a_journal_that_is_deleted_while_it_is_used_is_named(journal):
    study = study_in(journal)
    content = journal.read_bytes()
    journal.unlink()
    for _ in range(2):
        with pytest.raises(Halted, match=r"study.journal was deleted or replaced .*'rsas resume'"):
            study.ask()
    assert not journal.exists()  # no new one, which would lack all before
    journal.write_bytes(content[: len(content) // 2])
    with pytest.raises(Halted, match="deleted or replaced"):
        study.ask()


def test_a_study_needs_no_locks_of_the_file_system(tmp_path, monkeypatch):
    """As on NFS mounted without them."""
    import fcntl

    for name in ("flock", "lockf", "fcntl"):
        monkeypatch.setattr(fcntl, name, _fail)
    experiment, source = load_experiment("experiments/digits_quickstart.py")
    folder, _ = made.make(tmp_path / "runs", "first", experiment, source)
    with folder.locked():
        folder.study(experiment).begin()
    assert len(Study(folder.journal).optuna_study.trials) == 1


def test_a_database_that_is_away_is_one_line(tmp_path):
    store = DatabaseLeases(f"sqlite:///{tmp_path}/nowhere/study.db", "x")
    with pytest.raises(OSError, match="unable to open database file"):
        store.lease()
