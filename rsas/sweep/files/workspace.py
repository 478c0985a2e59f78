"""The folder of a workspace: its sweeps, and MLflow's files. Needs no Ray.

WORKSPACE/mlflow.db, artifacts/    MLflow, unless a tracking server is used
WORKSPACE/NAME/                    a sweep (rsas.sweep.files.sweep_dir)
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from rsas.errors import InputError
from rsas.redact import without_passwords
from rsas.sweep.experiment import check_name
from rsas.sweep.files.file_store import FileStore
from rsas.sweep.files.sweep_dir import FILES, SweepDir
from rsas.sweep.files.sweep_record import SCHEMA, VARIABLES, to_json
from rsas.uris import sqlite_uri

__all__ = ["Workspace"]


class Workspace:
    """A folder of sweeps, which need not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()

    def check_writable(self) -> None:
        """Try to write a temporary file to the workspace, or to its nearest existing parent.

        Raises:
            InputError: the folder cannot be written.
        """
        folder = self.path
        try:
            while not folder.exists() and folder != folder.parent:
                folder = folder.parent
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise InputError(
                f"workspace {str(self.path)!r}: cannot write in {str(folder)!r} "
                f"({error.strerror or error}); --workspace or RSAS_WORKSPACE names another folder"
            ) from None

    def check_free(self, name: str) -> None:
        """Check that a sweep of this name can be created.

        Raises:
            InputError: the name is taken, reserved or not valid.
        """
        check_name(name)
        if name in ("mlflow.db", "artifacts"):
            raise InputError(
                f"sweep name {name!r} is reserved for MLflow's files; --name gives another"
            )
        if (self.path / name).exists():
            sweep = (self.path / name / "sweep.json").exists()
            hint = f"'rsas resume {name}' resumes it" if sweep else "it is not a sweep"
            raise InputError(
                f"sweep name {name!r} is taken in workspace {str(self.path)!r}: {hint}; --name "
                "gives another"
            )

    def create(self, name: str, record: dict[str, Any]) -> SweepDir:
        """Create the folder of a sweep, completely or not at all.

        Args:
            name: of the sweep.
            record: content of ``sweep.json``, which is stored without the passwords of its URIs.

        Returns:
            The folder, which knows these passwords; after ``open``, the environment has them.

        Raises:
            InputError: the name is taken, or the folder cannot be created.
        """
        self.check_free(name)
        self.path.mkdir(parents=True, exist_ok=True)
        uris = {key: record[key] for key in VARIABLES if record.get(key) is not None}
        stored = record | {key: without_passwords(uri) for key, uri in uris.items()}
        partial = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=self.path))
        try:
            partial.chmod(0o755)
            FileStore(str(partial)).write("sweep.json", to_json({"schema": SCHEMA, **stored}))
            partial.rename(self.path / name)
        except BaseException as error:
            shutil.rmtree(partial, ignore_errors=True)
            if not isinstance(error, OSError):
                raise
            raise InputError(f"sweep {name!r}: cannot make its folder ({error})") from None
        return SweepDir(self.path / name, uris)

    def open(self, name: str) -> SweepDir:
        """Return the folder of an existing sweep.

        Raises:
            InputError: the workspace has no sweep of this name, or the sweep cannot be read.
        """
        names = self.names()
        if name not in names:
            remains = ""
            if os.path.isdir(self.path / name / "trials"):  # False for a name that is too long
                remains = (
                    "; its folder has files of trials, but neither sweep.json nor its copies: "
                    f"'rsas report {name} --tracking-uri URI' shows what MLflow has of it, "
                    f"{sqlite_uri(self.path / 'mlflow.db')} unless it had a server"
                )
            raise InputError(
                f"no sweep {name!r} in workspace {str(self.path)!r}; existing sweeps: "
                f"{', '.join(names) or 'none'}{remains}"
            )
        return SweepDir(self.path / name)

    def names(self) -> list[str]:
        """Return the names of the sweeps; the one that was created or extended last comes last.

        Raises:
            InputError: the workspace is not a folder that can be read.
        """
        try:
            if not self.path.exists():
                return []
            records = [
                record
                for folder in self.path.iterdir()
                if not folder.name.startswith(".")
                for record in (folder / name for name in FILES)
                if _is_file(record)
            ]
            records.sort(key=lambda path: path.stat().st_mtime)
        except NotADirectoryError:
            raise InputError(f"workspace {str(self.path)!r} is not a folder") from None
        except OSError as error:
            raise InputError(f"workspace {str(self.path)!r} cannot be read ({error})") from None
        return list(dict.fromkeys(path.parent.name for path in records))


def _is_file(path: Path) -> bool:
    """Return whether a path is a file; False in another user's folder, such as lost+found."""
    try:
        return path.is_file()
    except PermissionError:
        return False
