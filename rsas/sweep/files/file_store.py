"""A folder that every node of the cluster reaches: a path, or a URI such as ``s3://...``."""

from __future__ import annotations

import contextlib
import copy
import os
import re
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rsas.errors import InputError, StorageError, first_line
from rsas.redact import HIDDEN, redact, without_passwords

if TYPE_CHECKING:
    from pyarrow import fs

__all__ = ["FileStore", "aside"]

_PATIENCE = 60.0  # seconds for which a failed operation is retried
_HOPELESS = (  # errors that a retry cannot resolve
    "No space left",
    "Disk quota exceeded",
    "Read-only file system",
    "Permission denied",
    "Operation not permitted",
    "No such file or directory",  # of a new file: its folder cannot be made
    "File exists",
    "Not a directory",
    "is a directory",
    "File name too long",
    "Too many levels of symbolic links",
    "NO_SUCH_BUCKET",
    "ACCESS_DENIED",
)
_READERS = 16
_OBJECT_STORES = ("s3", "gcs")  # pyarrow's names of the stores in which it cannot move folders

T = TypeVar("T")


class FileStore:
    """The files below one folder, each written completely or not at all.

    Args:
        location: a path, or a URI that pyarrow knows (``s3://bucket/folder``, ``gs://``, ``hdfs://``).
            The folder need not exist. Keys come from the environment, never from the URI.

    Raises:
        InputError: ``location`` is neither a path nor such a URI, or holds a secret.
    """

    def __init__(self, location: str | Path) -> None:
        self.location = str(location).removeprefix("file://").rstrip("/")
        shown = self.location if self.is_local else redact(self.location)
        if without_passwords(shown) != self.location or HIDDEN in self.location:
            raise InputError(
                f"storage {self.location!r}: keys do not belong here; set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or the variables of your cloud"
            )
        self._fs, self._path = _open(self.location)
        self._mode = 0o666  # of new local files, before the umask

    def __truediv__(self, name: str) -> FileStore:
        inner = copy.copy(self)  # with the same connection
        bare, sep, query = (
            (self.location, "", "") if self.is_local else self.location.partition("?")
        )
        inner.location, inner._path = f"{bare}/{name}{sep}{query}", f"{self._path}/{name}"
        return inner

    @property
    def private(self) -> FileStore:
        """The same folder, where only the owner can read new local files (mode 0600)."""
        same = copy.copy(self)
        same._mode = 0o600
        return same

    @property
    def is_local(self) -> bool:
        """Whether the store is a path, which only machines that mount the path can reach."""
        return "://" not in self.location

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None if the file does not exist.

        A path below another file does not exist, either.
        """
        return self._patiently("read", name, lambda: self._read(f"{self._path}/{name}"))

    def read_all(self, names: list[str]) -> list[bytes | None]:
        """Return the contents of files; on a remote store, read them in parallel."""
        if self.is_local:
            return [self.read(name) for name in names]
        with ThreadPoolExecutor(_READERS) as pool:
            return list(pool.map(self.read, names))

    def write(self, name: str, content: bytes) -> None:
        """Write a file; a reader sees the whole new content, or the former one.

        Raises:
            StorageError: the file cannot be written. The error comes at once if the storage is full
                or refuses access or the path, else after retries for a minute.
        """
        self._patiently("write", name, lambda: self._write(f"{self._path}/{name}", content))

    def move(self, name: str, to: str) -> None:
        """Rename a file or a folder; do nothing if it does not exist.

        In an object store, the files of a folder are moved one by one.
        """
        self._patiently("move", name, lambda: self._move(name, to))

    def delete(self, name: str) -> None:
        """Remove a file or a folder; do nothing if it does not exist."""
        self._patiently("delete", name, lambda: self._delete(f"{self._path}/{name}"))

    def exists(self, name: str) -> bool:
        """Return whether a file or folder exists."""
        from pyarrow.fs import FileType

        path = f"{self._path}/{name}"
        info = self._patiently("reach", name, lambda: self._fs.get_file_info(path))
        return bool(info.type is not FileType.NotFound)

    def names(self) -> list[str]:
        """Return the sorted names of the files and folders directly in this folder.

        Names that are not valid UTF-8 are left out.
        """
        names = self._patiently("list", "", self._list)
        return sorted(name for name in names if not name.endswith(".partial"))

    def _patiently(self, verb: str, name: str, action: Callable[[], T]) -> T:
        """Run an action; retry for a while if the storage cannot be reached."""
        deadline = time.monotonic() + _PATIENCE
        pause = 0.2
        while True:
            try:
                return action()
            except OSError as error:
                hopeless = any(reason in str(error) for reason in _HOPELESS)
                if hopeless or time.monotonic() > deadline:
                    reason = first_line(error)
                    raise StorageError(f"cannot {verb} {self.location}/{name} ({reason})") from None
            time.sleep(pause)
            pause = min(2 * pause, 5.0)

    def _read(self, path: str) -> bytes | None:
        try:
            with self._fs.open_input_stream(path) as file:
                return bytes(file.read())
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _list(self) -> list[str]:
        from pyarrow.fs import FileSelector

        selector = FileSelector(self._path, allow_not_found=True)
        names = []
        try:
            for info in self._fs.get_file_info(selector):
                with contextlib.suppress(UnicodeDecodeError):  # a file of another program
                    names.append(info.base_name)
        except NotADirectoryError:
            return []
        return names

    def _move(self, name: str, to: str) -> None:
        source, target = f"{self._path}/{name}", f"{self._path}/{to}"
        try:
            if self._fs.type_name in _OBJECT_STORES:
                self._move_objects(source, target)
            else:
                self._fs.move(source, target)
        except OSError:
            if self.exists(name):
                raise

    def _move_objects(self, source: str, target: str) -> None:
        from pyarrow.fs import FileSelector, FileType

        if self._fs.get_file_info(source).type is not FileType.Directory:
            self._fs.move(source, target)
            return
        for info in self._fs.get_file_info(FileSelector(source, recursive=True)):
            if info.is_file:
                self._fs.move(info.path, target + info.path.removeprefix(source))
        self._delete(source)  # an object may stand for the folder itself

    def _delete(self, path: str) -> None:
        from pyarrow.fs import FileType

        try:
            if self._fs.get_file_info(path).type is FileType.Directory:
                self._fs.delete_dir(path)
            else:
                self._fs.delete_file(path)
        except FileNotFoundError:
            pass

    def _write(self, path: str, content: bytes) -> None:
        if not self.is_local:  # an object appears when its upload ends
            with self._fs.open_output_stream(path) as file:
                file.write(content)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
        try:
            # The file is created with its mode: a reader could open the file before a later chmod.
            opened = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, self._mode)
            with open(opened, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # else a power cut may leave an empty file of that name
            partial.replace(target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def aside(path: Path) -> Path:
    """Return a free path under which a damaged file can be kept."""
    number = 0
    while os.path.lexists(free := path.with_name(f"{path.name}.damaged{number or ''}")):
        number += 1
    return free


def _open(location: str) -> tuple[fs.FileSystem, str]:
    from pyarrow import fs

    try:
        location.encode()
    except UnicodeEncodeError:
        raise InputError(f"storage {location!r}: expected a path in UTF-8") from None
    if not re.match(r"[a-z][a-z0-9+.-]*://", location):
        return fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(location))
    try:
        system, path = fs.FileSystem.from_uri(location)
    except Exception as error:  # pyarrow raises several types of exceptions
        reason = first_line(error)
        raise InputError(
            f"storage {location!r}: expected a path or s3://BUCKET/FOLDER ({reason})"
        ) from None
    return system, str(path).rstrip("/")
