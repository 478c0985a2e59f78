"""The Ray cluster of a sweep: a new one on this machine, or an existing one that it joins.

A new cluster serves this machine only. All of its servers listen on loopback and require a token
that only this user can read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import secrets
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any

from rsas.errors import InputError
from rsas.redact import redact
from rsas.sweep.experiment import Resources

# Tune reads these on import. They switch off its own output, loggers and snapshots.
os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = str(10**9)
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

# With 0, as on macOS and Windows, a Ray that starts here listens on 127.0.0.1 only. ray.init has
# no option for that. An existing cluster keeps its addresses.
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables for the duration of the context."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            os.environ.update({} if value is None else {name: value})


# Ray reads the variable on import. The variable must not stay set: 'ray start' refuses to join a
# cluster with it.
with _environment(_LOOPBACK):
    import ray

__all__ = ["Connection", "Slots", "python_path", "slots_of"]

_CLIENT_HINT = (  # Ray Client sends a token only if RAY_AUTH_MODE says so
    "; where Ray asks for a token, RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or ~/.ray/auth_token)"
)
_PORT_SECONDS, _PORT_PAUSE = 10.0, 0.5  # a head node may still be starting
_LOOK_AGAIN = 5.0  # seconds for which a counted number of slots is used


class Slots:
    """The number of trials that can run at once, which changes as nodes join and leave.

    Args:
        resources: of one trial.
    """

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._counted_at = -math.inf
        self._count = 0

    def __call__(self) -> int:
        """Return ``resources.max_concurrent``, else the number that the present nodes can hold."""
        if self._resources.max_concurrent is not None:
            return self._resources.max_concurrent
        now = time.monotonic()
        if now - self._counted_at > _LOOK_AGAIN:
            self._counted_at = now
            self._count = sum(
                slots_of(node.get("Resources", {}), self._resources)
                for node in ray.nodes()
                if node["Alive"]
            )
        return self._count


def slots_of(available: dict[str, float], resources: Resources) -> int:
    """Return how many trials fit on a node with these resources (``CPU``, ``GPU``)."""
    count = math.floor(available.get("CPU", 0.0) / resources.cpus + 1e-9)
    if resources.gpus:
        count = min(count, _on_gpus(available.get("GPU", 0.0), resources.gpus))
    return count


def _on_gpus(gpus: float, per_trial: float) -> int:
    """Return how many trials fit on the GPUs; the share of a trial comes from a single GPU."""
    if per_trial >= 1:
        return math.floor(gpus / per_trial)
    return math.floor(gpus) * math.floor(1 / per_trial + 1e-9)


class Connection:
    """The connection to a Ray cluster: a context manager that shuts Ray down at its end.

    Ray starts on a thread, while this process imports libraries and reads its input.

    Args:
        address: ``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``; None starts a cluster on this
            machine that ends with the context.
        source: of the experiment, ``file.py:function``; workers can import the modules beside it.
    """

    def __init__(self, address: str | None, source: str) -> None:
        self.address = address
        self._path = python_path(source)

    def __enter__(self) -> Connection:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="ray")
        self._start = self._pool.submit(_start, self.address, self._path)
        return self

    def __exit__(self, *_: object) -> None:
        wait([self._start])
        # The shutdown comes before the thread's end. With the thread that started them, the kernel
        # ends Ray's processes; then this process would exit, too, with Ray's exit code.
        ray.shutdown()
        self._pool.shutdown()

    def slots(self, resources: Resources, *, any_size: bool = False) -> Slots:
        """Wait for the connection, and return the slots of the cluster.

        Args:
            resources: of one trial.
            any_size: accept a cluster on which no trial fits.

        Raises:
            InputError: no such cluster answers, or not even one trial fits.
        """
        try:
            self._start.result()
        except Exception as error:  # Ray raises many types of exceptions
            raise InputError(
                f"address {self.address!r}: no Ray cluster answers ({_reason(error)}); "
                "'ray start --head' starts one, and without --address a sweep starts its own"
                + (_CLIENT_HINT if str(self.address).startswith("ray://") else "")
            ) from None
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # rsas reports failures itself
        slots = Slots(resources)
        # A cluster may grow, this machine does not: max_concurrent must not hide a lack of room.
        unlimited = dataclasses.replace(resources, max_concurrent=None)
        fit = slots() if self.address else Slots(unlimited)()
        if fit < 1 and not any_size:
            total = ray.cluster_resources()
            raise InputError(
                f"resources: a trial needs {resources.cpus:g} CPUs and {resources.gpus:g} GPUs on "
                f"one node, but {'the cluster' if self.address else 'this machine'} has "
                f"{total.get('CPU', 0.0):g} and {total.get('GPU', 0.0):g} in all"
                + (
                    "; --concurrency N waits for nodes that an autoscaler adds"
                    if self.address
                    else ""
                )
            )
        return slots


def python_path(source: str) -> list[str]:
    """Return the folders of the user's own modules: the current one and the experiment file's.

    The folders of ``PYTHONPATH`` follow.
    """
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    experiment_folder = str(Path(source.rpartition(":")[0]).parent)
    return [str(Path.cwd()), experiment_folder, *(folder for folder in inherited if folder)]


def _start(address: str | None, path: Sequence[str]) -> None:
    variables = {"PYTHONPATH": os.pathsep.join(path)}
    if address is not None:
        _wait_for_port(address)
        _init(ConnectionAbortedError, address=address, runtime_env={"env_vars": variables})
        return
    # The environment carries them, as a runtime_env delays the start of Ray's workers.
    variables["RAY_worker_niceness"] = "0"
    _keep_token_private()
    with _environment(variables | _LOOPBACK):
        _init(Exception, address="local", include_dashboard=False)


def _wait_for_port(address: str) -> None:
    """Wait until the port of a cluster accepts a connection; Ray would wait for minutes.

    Raises:
        OSError: the port accepts none within 10 seconds.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdigit():  # such as "auto"
        return
    deadline = time.monotonic() + _PORT_SECONDS
    while True:
        left = max(deadline - time.monotonic(), 0.1)
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=left).close()
            return
        except OSError:
            if time.monotonic() + _PORT_PAUSE > deadline:
                raise
            time.sleep(_PORT_PAUSE)


def _keep_token_private() -> None:
    """Create the token of this machine's own Ray with mode 600, or set that mode.

    Ray itself would create the file with the mode of the umask, readable by all users. A token
    that the user chose by ``RAY_AUTH_TOKEN`` or ``RAY_AUTH_TOKEN_PATH`` remains unchanged.
    """
    chosen = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if chosen or os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    token = Path.home() / ".ray" / "auth_token"
    try:
        token.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(token, "x", opener=partial(os.open, mode=0o600)) as file:
            file.write(secrets.token_hex(32))
    except FileExistsError:
        if token.stat().st_mode & 0o077:
            _close_to_others(token)


def _close_to_others(token: Path) -> None:
    log = logging.getLogger("rsas")
    try:
        token.chmod(0o600)
    except OSError as error:  # another user owns the file, or the file system is read-only
        log.warning("%s, Ray's token, can be read by other users (%s)", token, error.strerror)
    else:
        log.warning(
            "%s, Ray's token, could be read by other users and now cannot; delete it, and the next "
            "sweep makes another",
            token,
        )


def _init(busy: type[Exception], **options: Any) -> None:
    """Call ``ray.init``; retry once after the error that a busy machine causes after 30 s."""
    options |= {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        ray.init(**options)
    except busy:
        ray.shutdown()
        ray.init(**options)


def _reason(error: Exception) -> str:
    """Return an error in one line: the first line, and the last one of a remote traceback."""
    lines = redact(f"{type(error).__name__}: {error}").strip().splitlines()
    return f"{lines[0]} {lines[-1].strip()}" if "Traceback" in str(error) else lines[0]
