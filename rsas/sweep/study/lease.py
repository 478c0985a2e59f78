"""The right to run a sweep, which one process has at a time. It is kept in the study itself.

Each process that takes the right increases the number of the lease, its epoch. The storage of the
study compares the epoch at each write, so a process that has lost the right cannot write any more:
it may have been stopped for hours, or may run on another machine (a fencing token; Kleppmann 2016,
"How to do distributed locking"). A lease is taken over where its owner is provably dead, or by an
explicit request.
"""

from __future__ import annotations

import dataclasses
import os
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rsas.errors import InputError, LeaseLost

__all__ = ["Lease", "LeaseStore", "Owner", "acquire", "is_alive"]


@dataclass(frozen=True)
class Owner:
    """A process, described so that another process can find out whether it is dead."""

    pid: int
    started: int  # clock ticks from the start of the machine to that of the process; 0 if unknown
    host: str  # for messages
    machine: str
    boot: str  # differs each time the machine starts
    namespace: str  # in which the pid is valid: containers have their own


@dataclass(frozen=True)
class Lease:
    """Who may write the study."""

    epoch: int  # from 1, one more each time the owner changes
    owner: Owner
    is_released: bool = False  # the owner ended in order

    def to_dict(self) -> dict[str, Any]:
        """Return the lease as JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Lease:
        """Make the lease of a ``to_dict()``."""
        return cls(values["epoch"], Owner(**values["owner"]), values["is_released"])

    def lost_to(self, other: Lease | None) -> LeaseLost:
        """Return the error for the owner of this lease, which another process has taken over."""
        by = f"process {other.owner.pid} on {other.owner.host}" if other else "another process"
        return LeaseLost(f"{by} has taken the sweep over; this process ends")


class LeaseStore(Protocol):
    """Where the lease of a study is kept."""

    def lease(self) -> Lease | None:
        """Return the lease as it is now; None where there never was one."""

    def put(self, lease: Lease, over: Lease | None) -> None:
        """Replace the lease ``over``.

        Raises:
            LeaseLost: another process was sooner.
        """


def acquire(store: LeaseStore, sweep: str, *, take_over: bool) -> Lease:
    """Take the right to run a sweep.

    Args:
        store: of its study.
        sweep: name of the sweep, for messages.
        take_over: also from an owner that is alive, or of which nothing can be known here.

    Raises:
        InputError: another process has it.
    """
    held = store.lease()
    if held is not None and not held.is_released and not take_over:
        alive = is_alive(held.owner)
        if alive is not False:
            raise InputError(f"sweep {sweep!r} is {_reason(held.owner, alive, sweep)}")
    mine = Lease(1 if held is None else held.epoch + 1, _me())
    try:
        store.put(mine, over=held)
    except LeaseLost as error:
        raise InputError(f"sweep {sweep!r}: {error}") from None
    return mine


def is_alive(owner: Owner) -> bool | None:
    """Tell whether a process exists; None where that cannot be known from here.

    A number of a process may be given to another one, hence the time of its start. A machine that
    has been started since has none of the processes from before.
    """
    me = _me()
    if owner.machine != me.machine:
        return None
    if owner.boot != me.boot:
        return False
    if owner.namespace != me.namespace:
        return None
    return _started(owner.pid) == owner.started


def _reason(owner: Owner, alive: bool | None, sweep: str) -> str:
    """Say why the lease of an owner is not taken over."""
    if alive is None:
        return (
            f"held by process {owner.pid} on {owner.host}, and this machine cannot see whether "
            "that process is alive; if it is dead, --take-over goes on with the sweep"
        )
    if _state(owner.pid) == "T":
        return (
            f"held by process {owner.pid}, which is stopped; 'kill -CONT {owner.pid}' lets that "
            "process go on, and --take-over goes on here instead"
        )
    return (
        f"being run by process {owner.pid}; 'rsas status {sweep}' follows it, and --take-over "
        "takes the sweep away from that process"
    )


def _me() -> Owner:
    pid, host, boot = os.getpid(), socket.gethostname(), _text("/proc/sys/kernel/random/boot_id")
    # Containers of one image share the first part, and pods of one name the second one.
    address = uuid.getnode()
    is_drawn = bool(address >> 40 & 1)  # at random, as the machine has none (RFC 9562, 6.10)
    return Owner(
        pid=pid,
        started=_started(pid) or 0,
        host=host,
        machine=f"{_text('/etc/machine-id')} {host} {boot if is_drawn else f'{address:x}'}",
        boot=boot,
        namespace=_namespace(),
    )


def _started(pid: int) -> int | None:
    """Return when a process started, 0 where the system does not say; None if it is dead."""
    if not Path("/proc/self/stat").exists():  # not Linux
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:  # of another user
            pass
        return 0
    fields = _fields(pid)
    return None if not fields or fields[0] in "ZX" else int(fields[19])


def _state(pid: int) -> str:
    fields = _fields(pid)
    return fields[0] if fields else ""


def _fields(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on (proc(5)); empty without a process."""
    return _text(f"/proc/{pid}/stat").rpartition(")")[2].split()


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _text(path: str) -> str:
    try:
        return Path(path).read_text("utf-8").strip()
    except OSError:
        return ""
