"""The servers of the tests are the real thing, and gone afterwards."""

import contextlib
import socket
import sys

import optuna
import pytest
from mlflow import MlflowClient
from optuna.storages import RDBStorage
from pyarrow import fs

from tests.servers import Server, mlflow_server, postgres, s3

pytestmark = pytest.mark.resource

DIRECTIONS = ["maximize", "maximize"]


def listens(server):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", server.port)) == 0


def tell(study):
    trial = study.ask()
    trial.suggest_float("x", 0.0, 1.0)
    return study.tell(trial, (0.25, 0.75)).number


def test_a_study_outlives_a_crash_of_postgres(tmp_path):
    """Guards: what is committed stays (no ``synchronous_commit=off``), at the same address."""
    with postgres(tmp_path) as server:
        study = optuna.create_study(storage=server.url, study_name="s", directions=DIRECTIONS)
        tell(study)
        waiting = study.ask()
        server.stop("immediate")
        assert not listens(server)
        server.start()
        study = optuna.load_study(storage=server.url, study_name="s")
        assert [trial.values for trial in study.trials] == [[0.25, 0.75], None]
        study.tell(waiting.number, (0.5, 0.5))
        assert tell(study) == 2
    assert not listens(server) and "database system is ready" in server.log.read_text()


def test_an_open_study_goes_on_after_a_restart_only_with_pre_ping(tmp_path):
    """Guards: a restart really cuts the connections of the clients."""
    with postgres(tmp_path) as server:
        optuna.create_study(storage=server.url, study_name="s", directions=DIRECTIONS)
        plain = optuna.load_study(storage=RDBStorage(server.url), study_name="s")
        storage = RDBStorage(server.url, engine_kwargs={"pool_pre_ping": True})
        pinging = optuna.load_study(storage=storage, study_name="s")
        tell(plain), tell(pinging)
        server.restart()
        with pytest.raises(optuna.exceptions.StorageInternalError):
            tell(plain)
        assert tell(pinging) == 2


def test_postgres_wants_the_password(tmp_path):
    """Guards: connecting proves that a URL, password included, came through."""
    with postgres(tmp_path) as server:
        password = server.url.split("@")[0].rsplit(":", 1)[1]
        with pytest.raises(Exception, match="password authentication failed"):
            RDBStorage(server.url.replace(password, "wrong"))


def test_pyarrow_finds_s3_by_its_environment(tmp_path, monkeypatch):
    """Guards: no word of an endpoint in the URI, and what is written is what is read."""
    with s3(tmp_path) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        files, root = fs.FileSystem.from_uri(f"{server.uri}/first")
        # Several parts, which the client sends beside one another.
        content = {f"{root}/small": b"few", f"{root}/deep/large": bytes(range(256)) * 45_000}
        for path, data in content.items():
            with files.open_output_stream(path) as stream:
                stream.write(data)
        for path, data in content.items():
            with files.open_input_stream(path) as stream:
                assert stream.read() == data
        listed = files.get_file_info(fs.FileSelector(root, recursive=True))
        assert {info.path for info in listed if info.is_file} == set(content)
        files.delete_file(f"{root}/small")
        assert files.get_file_info(f"{root}/small").type == fs.FileType.NotFound
        files.delete_dir(root)
        assert files.get_file_info(f"{root}/deep/large").type == fs.FileType.NotFound
    assert not listens(server)


def test_mlflow_and_optuna_share_a_database_but_no_schema(tmp_path):
    """Guards: the server keeps runs in PostgreSQL, artifacts in the folder, and its address.

    Both tools keep their version in a table ``alembic_version`` (mlflow #3374).
    """
    with postgres(tmp_path) as database, mlflow_server(tmp_path, database.url) as server:
        with contextlib.closing(database.connect()) as connection:
            connection.execute("CREATE SCHEMA optuna")
        apart = f"{database.url}?options=-csearch_path%3Doptuna"
        study = optuna.create_study(storage=apart, study_name="s", directions=DIRECTIONS)
        tell(study)

        client = MlflowClient(server.uri)
        run = client.create_run(client.create_experiment("e"), tags={"rsas.sweep": "s"})
        client.log_metric(run.info.run_id, "val_accuracy", 0.9)
        client.log_text(run.info.run_id, "front", "front.txt")
        assert [path.read_text() for path in tmp_path.rglob("front.txt")] == ["front"]

        server.stop()
        assert not listens(server)
        server.start()
        assert client.get_run(run.info.run_id).data.metrics == {"val_accuracy": 0.9}
        assert optuna.load_study(storage=apart, study_name="s").trials[0].values == [0.25, 0.75]
        with pytest.raises(RuntimeError, match="no longer compatible with the table schema"):
            optuna.create_study(storage=database.url, study_name="s", directions=DIRECTIONS)
    assert not listens(server)


def test_a_server_that_does_not_start_says_why(tmp_path):
    """Guards: no test waits out its time for a server that has ended, or leaves one behind."""
    code = "import sys; sys.exit('the disk is full')"
    server = Server("broken", tmp_path, lambda _: [sys.executable, "-c", code], lambda _: False)
    with pytest.raises(RuntimeError, match="broken ended with 1:\nthe disk is full"):
        server.start()
    server = Server("mute", tmp_path, lambda _: ["sleep", "60"], lambda _: False)
    with pytest.raises(RuntimeError, match="mute did not answer"):
        server.start(seconds=0.2)
    assert server.process is None
