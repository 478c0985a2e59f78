"""URIs of files."""

import contextlib
import sqlite3

import pytest
import sqlalchemy

from rsas.uris import sqlite_file, sqlite_uri


@pytest.mark.parametrize("name", ["plain", "a b", "100%25", "%", "c#d", "e?f=g&h", "i@j:5", "ü'\""])
def test_uris_of_sqlite_name_their_file(name, tmp_path):
    path = tmp_path / name / "mlflow.db"
    path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE here (x)")
    engine = sqlalchemy.create_engine(sqlite_uri(path))
    assert sqlalchemy.inspect(engine).get_table_names() == ["here"]
    engine.dispose()
    assert sqlite_file(sqlite_uri(path)) == path


def test_other_uris_name_no_file():
    assert sqlite_file("http://127.0.0.1:5000") is None
