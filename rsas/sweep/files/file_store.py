"""A folder that every node of the cluster reaches: a path, or an URI such as ``s3://...``."""

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

_PATIENCE = 60.0  # seconds for which something is tried again
_HOPELESS = (  # no use to try again
    "No space left",
    "Disk quota exceeded",
    "Read-only file system",
    "Permission denied",
    "File exists",
    "Not a directory",
    "is a directory",
    "File name too long",
    "Too many levels of symbolic links",
    "NO_SUCH_BUCKET",
    "ACCESS_DENIED",
)
_READERS = 16
_OBJECT_STORES = ("s3", "gcs")  # to pyarrow, which cannot move folders there

T = TypeVar("T")


class FileStore:
    """Files below one place, written whole or not at all.

    Args:
        place: a path, or an URI that pyarrow knows (``s3://bucket/folder``, ``gs://``, ``hdfs://``).
            It need not exist. Keys come from the environment, never from the URI.

    Raises:
        InputError: it is neither, or it holds a secret.
    """

    def __init__(self, place: str | Path) -> None:
        self.place = str(place).removeprefix("file://").rstrip("/")
        shown = self.place if self.is_local else redact(self.place)
        if without_passwords(shown) != self.place or HIDDEN in self.place:
            raise InputError(
                f"storage {self.place!r}: keys do not belong here; set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or what your cloud reads"
            )
        self._fs, self._path = _open(self.place)
        self._mode = 0o666  # of new local files, less the umask

    def __truediv__(self, name: str) -> FileStore:
        inner = copy.copy(self)  # with the same connection
        bare, mark, query = (self.place, "", "") if self.is_local else self.place.partition("?")
        inner.place, inner._path = f"{bare}/{name}{mark}{query}", f"{self._path}/{name}"
        return inner

    @property
    def private(self) -> FileStore:
        """The same place, where new local files can be read by their owner alone (mode 0600)."""
        same = copy.copy(self)
        same._mode = 0o600
        return same

    @property
    def is_local(self) -> bool:
        """Whether it is a path, which only machines that mount it can reach."""
        return "://" not in self.place

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if there is none, such as below another file."""
        return self._patiently("read", name, lambda: self._read(f"{self._path}/{name}"))

    def read_all(self, names: list[str]) -> list[bytes | None]:
        """The contents of files; many at once where each takes a while."""
        if self.is_local:
            return [self.read(name) for name in names]
        with ThreadPoolExecutor(_READERS) as pool:
            return list(pool.map(self.read, names))

    def write(self, name: str, content: bytes) -> None:
        """Write a file. A reader sees all of it, or what was there before.

        Raises:
            StorageError: that was not possible, at once where the place is full or closed, else
                for a minute.
        """
        self._patiently("write", name, lambda: self._write(f"{self._path}/{name}", content))

    def move(self, name: str, to: str) -> None:
        """Give a file or a folder another name; nothing if it is gone.

        A folder of an object store goes file by file.
        """
        self._patiently("move", name, lambda: self._move(name, to))

    def delete(self, name: str) -> None:
        """Remove a file or a folder; nothing if it is gone."""
        self._patiently("delete", name, lambda: self._delete(f"{self._path}/{name}"))

    def exists(self, name: str) -> bool:
        """Whether there is such a file or folder."""
        from pyarrow.fs import FileType

        path = f"{self._path}/{name}"
        found = self._patiently("reach", name, lambda: self._fs.get_file_info(path))
        return bool(found.type is not FileType.NotFound)

    def names(self) -> list[str]:
        """Names of the files and folders right here, sorted; without those that are no UTF-8."""
        found = self._patiently("list", "", self._list)
        return sorted(name for name in found if not name.endswith(".partial"))

    def _patiently(self, verb: str, name: str, action: Callable[[], T]) -> T:
        """Do it; again, for a while, where the storage is away."""
        deadline = time.monotonic() + _PATIENCE
        pause = 0.2
        while True:
            try:
                return action()
            except OSError as error:
                hopeless = any(reason in str(error) for reason in _HOPELESS)
                if hopeless or time.monotonic() > deadline:
                    reason = first_line(error)
                    raise StorageError(f"cannot {verb} {self.place}/{name} ({reason})") from None
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

        here = FileSelector(self._path, allow_not_found=True)
        names = []
        try:
            for info in self._fs.get_file_info(here):
                with contextlib.suppress(UnicodeDecodeError):  # of another program
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
        self._delete(source)  # what may mark the folder itself

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
            # The mode comes with the file: a reader that opens it before a chmod keeps it open.
            opened = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, self._mode)
            with open(opened, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # or a power cut may leave an empty file of that name
            partial.replace(target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def aside(path: Path) -> Path:
    """Return a name that is not taken, under which a damaged file can be kept."""
    number = 0
    while os.path.lexists(found := path.with_name(f"{path.name}.damaged{number or ''}")):
        number += 1
    return found


def _open(place: str) -> tuple[fs.FileSystem, str]:
    from pyarrow import fs

    try:
        place.encode()
    except UnicodeEncodeError:
        raise InputError(f"storage {place!r}: expected a path in UTF-8") from None
    if not re.match(r"[a-z][a-z0-9+.-]*://", place):
        return fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(place))
    try:
        found, path = fs.FileSystem.from_uri(place)
    except Exception as error:  # pyarrow raises several kinds
        reason = first_line(error)
        raise InputError(
            f"storage {place!r}: expected a path or s3://BUCKET/FOLDER ({reason})"
        ) from None
    return found, str(path).rstrip("/")
