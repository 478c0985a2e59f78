"""The storage of a study in a database, and the table of leases that fences the writes there."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import optuna
import sqlalchemy as sql
from sqlalchemy.schema import CreateTable

from rsas.errors import StorageError, first_line
from rsas.sweep.study.lease import Lease

__all__ = ["DatabaseLeases", "open_database"]

_SCHEMA = "rsas_study"  # not "rsas": a schema of the role's name would hide MLflow's
_TABLE = sql.Table(
    "rsas_lease",
    sql.MetaData(),
    sql.Column("study", sql.String(255), primary_key=True),
    sql.Column("epoch", sql.Integer, nullable=False),
    sql.Column("lease", sql.Text, nullable=False),
)


def open_database(url: str, study: str, lease: Lease | None) -> optuna.storages.BaseStorage:
    """Open the storage of studies in a database.

    Args:
        url: of the database.
        study: name of the study whose lease is compared.
        lease: of this process. A transaction fails with ``LeaseLost`` if another lease is valid
            at its end. With None, no lease is compared.
    """
    # A restarted server has dropped its connections; the ping replaces them.
    options = {"pool_pre_ping": True, **_options(url)}
    _make_schema(url)
    storage = optuna.storages.RDBStorage(url, engine_kwargs=options)
    if lease is not None:
        _fence(storage.engine, study, lease)
    return storage


class DatabaseLeases:
    """The lease of one study, in a table beside Optuna's tables.

    Args:
        url: of the database.
        study: name of the study, which need not exist.
    """

    def __init__(self, url: str, study: str) -> None:
        self._url, self._study = url, study

    def lease(self) -> Lease | None:
        """Return the current lease, or None if the study never had one.

        Raises:
            StorageError: the database does not answer.
        """
        with self._transaction() as connection:
            if not sql.inspect(connection).has_table(_TABLE.name):
                return None
            return _read(connection, _of(self._study))

    def put(self, lease: Lease, over: Lease | None) -> None:
        """Replace the lease ``over``.

        Raises:
            LeaseLost: another process has replaced the lease first.
            StorageError: the database does not answer.
        """
        # An unreachable database becomes a StorageError here.
        with self._transaction():
            _make_schema(self._url)
        values = {"epoch": lease.epoch, "lease": json.dumps(lease.to_dict())}
        with self._transaction() as connection:
            if over is None:
                with contextlib.suppress(sql.exc.IntegrityError):  # another process was first
                    connection.execute(_TABLE.insert().values(study=self._study, **values))
                    return
            else:
                is_old = (_TABLE.c.study == self._study) & (_TABLE.c.epoch == over.epoch)
                update = _TABLE.update().where(is_old).values(**values)
                if connection.execute(update).rowcount == 1:
                    return
        raise lease.lost_to(self.lease())

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sql.Connection]:
        try:
            engine = sql.create_engine(self._url, poolclass=sql.NullPool, **_options(self._url))
            with engine.begin() as connection:
                yield connection
        except (sql.exc.SQLAlchemyError, ImportError) as error:
            raise StorageError(first_line(error.__cause__ or error)) from None


def _fence(engine: sql.Engine, study: str, mine: Lease) -> None:
    """Compare the lease at the end of each transaction, before the transaction takes effect.

    The row of the lease is locked for the rest of the transaction, and SQLite allows one writer at
    a time. So no other process can take the lease between the comparison and the write.
    """

    @sql.event.listens_for(engine, "commit")
    def compare(connection: sql.Connection) -> None:
        held = _read(connection, _of(study).with_for_update(read=True))
        if held is None or held.epoch != mine.epoch:
            raise mine.lost_to(held)


def _of(study: str) -> sql.Select[Any]:
    return sql.select(_TABLE.c.lease).where(_TABLE.c.study == study)


def _read(connection: sql.Connection, query: sql.Select[Any]) -> Lease | None:
    text = connection.execute(query).scalar()
    return None if text is None else Lease.from_dict(json.loads(text))


def _make_schema(url: str) -> None:
    """Create the table of leases if it is missing, and in PostgreSQL the schema of studies."""
    engine = sql.create_engine(url, poolclass=sql.NullPool, **_options(url))
    statements: list[sql.Executable] = [CreateTable(_TABLE, if_not_exists=True)]
    if url.startswith("postgresql"):
        statements.insert(0, sql.text(f"CREATE SCHEMA IF NOT EXISTS {_SCHEMA}"))
    for statement in statements:
        # Two processes may create both at once; "if not exists" does not prevent this error.
        with contextlib.suppress(sql.exc.IntegrityError), engine.begin() as connection:
            connection.execute(statement)


def _options(url: str) -> dict[str, Any]:
    """Return the options of SQLAlchemy's engine for a URL."""
    if not url.startswith("postgresql"):
        return {}
    # Optuna and MLflow both create a table alembic_version. In one database, each of them needs
    # its own schema (mlflow #3374).
    return {"connect_args": {"options": f"-csearch_path={_SCHEMA}"}}
