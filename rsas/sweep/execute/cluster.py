"""The Ray cluster a sweep runs on: one of its own on this machine, or one that is there.

One of its own is for this machine: all of its servers listen on loopback, and ask for a token,
which only this user can read.
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
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any

from rsas.errors import InputError
from rsas.redact import redact
from rsas.sweep.experiment import Resources

# Read by Tune when it is imported: its own output, loggers and snapshots are not used.
os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = str(10**9)
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

# With 0, as on macOS and Windows, a Ray that is started here has the address 127.0.0.1 and listens
# there only. ray.init has no option for that. A cluster that is joined keeps its addresses.
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set variables for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            os.environ.update({} if value is None else {name: value})


with _environment(_LOOPBACK):  # read on import; 'ray start' refuses to join a cluster with it
    import ray

__all__ = ["Slots", "connected", "early"]

_CLIENT_HINT = (  # Ray Client sends its token only when it is told to
    "; where Ray asks for a token, RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or ~/.ray/auth_token)"
)
_PORT_SECONDS, _PORT_PAUSE = 10.0, 0.5  # a head may just be starting
_LOOK_AGAIN = 5.0  # seconds for which a number of slots is taken as it is


class Slots:
    """How many trials can run at once; nodes come and go.

    Args:
        resources: of one trial.
    """

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._looked = -math.inf
        self._count = 0

    def __call__(self) -> int:
        """As many as fit the nodes there are now, or as ``resources.max_concurrent`` says."""
        if self._resources.max_concurrent is not None:
            return self._resources.max_concurrent
        now = time.monotonic()
        if now - self._looked > _LOOK_AGAIN:
            self._looked = now
            self._count = sum(
                slots_of(node.get("Resources", {}), self._resources)
                for node in ray.nodes()
                if node["Alive"]
            )
        return self._count


def slots_of(available: dict[str, float], resources: Resources) -> int:
    """How many trials fit a node with these resources (``CPU``, ``GPU``)."""
    count = math.floor(available.get("CPU", 0.0) / resources.cpus + 1e-9)
    if resources.gpus:
        count = min(count, _on_gpus(available.get("GPU", 0.0), resources.gpus))
    return count


def _on_gpus(gpus: float, each: float) -> int:
    """A trial with a share of a GPU has it from one GPU."""
    if each >= 1:
        return math.floor(gpus / each)
    return math.floor(gpus) * math.floor(1 / each + 1e-9)


@contextlib.contextmanager
def early(address: str | None, source: str) -> Iterator[None]:
    """Let Ray start while this process imports and reads what it needs; ended with the context.

    Args:
        address: as for ``connected``.
        source: of the experiment, ``file.py:function``.
    """
    global _starting  # noqa: PLW0603  # there is one Ray in a process, too
    pool = ThreadPoolExecutor(1, thread_name_prefix="ray")
    begun = _starting = pool.submit(_start, address, python_path(source))
    try:
        yield
    finally:
        _starting = None
        wait([begun])
        # Before its thread ends: Ray has the kernel end its processes with the thread that began
        # them, and without them this process would end itself, with Ray's exit code.
        ray.shutdown()
        pool.shutdown()


@contextlib.contextmanager
def connected(
    address: str | None, resources: Resources, source: str, *, any_size: bool = False
) -> Iterator[Slots]:
    """Be connected to a Ray cluster while this context lasts.

    Args:
        address: ``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``; None starts one on this machine
            that ends with the context.
        resources: of one trial.
        source: of the experiment, beside which workers find modules of the user's.
        any_size: also where no trial fits.

    Raises:
        InputError: there is no such cluster, or not even one trial fits.
    """
    try:
        if _starting is not None:
            _starting.result()
        else:
            _start(address, python_path(source))
    except Exception as error:  # Ray has many kinds
        raise InputError(
            f"address {address!r}: no Ray cluster answers ({_reason(error)}); "
            "'ray start --head' starts one, and without --address a sweep has its own"
            + (_CLIENT_HINT if str(address).startswith("ray://") else "")
        ) from None
    try:
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failures are told by us
        slots = Slots(resources)
        # A cluster may grow; this machine does not, however many trials are to run at once.
        here = dataclasses.replace(resources, max_concurrent=None)
        fit = slots() if address else Slots(here)()
        if fit < 1 and not any_size:
            total = ray.cluster_resources()
            raise InputError(
                f"resources: a trial needs {resources.cpus:g} CPUs and {resources.gpus:g} GPUs on "
                f"one node, but {'the cluster' if address else 'this machine'} has "
                f"{total.get('CPU', 0.0):g} and {total.get('GPU', 0.0):g} in all"
                + ("; --concurrency N waits for nodes that an autoscaler adds" if address else "")
            )
        yield slots
    finally:
        ray.shutdown()


def python_path(source: str) -> list[str]:
    """Where models of the user's own are found: here, and beside the experiment's file."""
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    beside = str(Path(source.rpartition(":")[0]).parent)
    return [str(Path.cwd()), beside, *(place for place in inherited if place)]


_starting: Future[None] | None = None


def _start(address: str | None, path: Sequence[str]) -> None:
    ours = {"PYTHONPATH": os.pathsep.join(path)}
    if address is not None:
        _wait_for_port(address)
        _init(ConnectionAbortedError, address=address, runtime_env={"env_vars": ours})
        return
    # Through the environment: with a runtime_env, Ray's workers take longer to begin.
    ours["RAY_worker_niceness"] = "0"
    _keep_token_private()
    with _environment(ours | _LOOPBACK):
        _init(Exception, address="local", include_dashboard=False)


def _wait_for_port(address: str) -> None:
    """Wait until the port of a cluster accepts a connection; Ray would wait for minutes.

    Raises:
        OSError: it does not within 10 seconds.
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
    """Create the token of this machine's own Ray with mode 600, or give it that mode.

    Ray would create it with the mode of the umask, readable by all users. A token that the user
    chose by ``RAY_AUTH_TOKEN`` or ``RAY_AUTH_TOKEN_PATH`` is left as it is.
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
    except OSError as error:  # of another user, or mounted to be read only
        log.warning("%s, Ray's token, can be read by other users (%s)", token, error.strerror)
    else:
        log.warning(
            "%s, Ray's token, could be read by other users and now cannot; delete it, and the next "
            "sweep makes another",
            token,
        )


def _init(busy: type[Exception], **options: Any) -> None:
    """Begin or reach Ray; once more after the error of a machine that was too busy for 30 s."""
    options |= {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        ray.init(**options)
    except busy:
        ray.shutdown()
        ray.init(**options)


def _reason(error: Exception) -> str:
    """An error in one line; of a traceback that Ray Client passes on, the line that says it."""
    lines = redact(f"{type(error).__name__}: {error}").strip().splitlines()
    return f"{lines[0]} {lines[-1].strip()}" if "Traceback" in str(error) else lines[0]
