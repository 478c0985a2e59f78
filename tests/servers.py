"""The servers of a cluster on this machine: PostgreSQL, S3 and MLflow, each for one test.

All listen on 127.0.0.1 only, write ``NAME.log`` into the given folder, can be stopped and
started again at the same address, and are gone when the context ends.
"""

import contextlib
import fcntl
import functools
import http.client
import http.server
import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tests.needs import lacking

_HOST = "127.0.0.1"
_ROOT = Path(__file__).parents[1]

# `mlflow server` imports MLflow (7 s of computing), makes the schema, and starts a second process
# that imports MLflow again. Here the second one is the first; where MLflow has no such function,
# the server is slower to start.
_MLFLOW = """
import os, runpy, sys
import mlflow.cli, mlflow.server

def stay(command, *, extra_env, **_):
    os.environ.update(extra_env)
    sys.argv = command[2:]
    runpy.run_module("uvicorn", run_name="__main__", alter_sys=True)

mlflow.server._exec_cmd = stay
sys.exit(mlflow.cli.cli())
"""


class Server:
    """A process that serves on a port of its own; ``ready`` says whether it answers by now."""

    def __init__(
        self,
        name: str,
        folder: Path,
        command: Callable[[int], Sequence[str]],
        ready: Callable[[int], bool],
        environment: Mapping[str, str] | None = None,
        **options: Any,
    ):
        self.name = name
        self.port = free_port()
        self.log = Path(folder) / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._command = [*command(self.port)]
        self._ready = ready
        self._environment = environment
        self._options = options

    def start(self, seconds: float = 120) -> None:
        """Start it at its port, and wait until it answers."""
        if self.process:
            raise RuntimeError(f"{self.name} runs already")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=self._environment,
                **self._options,
            )
        deadline = time.monotonic() + seconds
        while (code := self.process.poll()) is not None or not self._ready(self.port):
            if code is not None or time.monotonic() > deadline:
                self.kill()
                reason = "did not answer" if code is None else f"ended with {code}"
                tail = self.log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{self.name} {reason}:\n{tail}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End it, and wait until it is gone; nothing happens when it does not run."""
        self._end(lambda process: os.killpg(process.pid, signal.SIGTERM))

    def kill(self) -> None:
        """End it without a chance to clean up."""
        self._end(lambda process: os.killpg(process.pid, signal.SIGKILL))

    def restart(self) -> None:
        self.stop()
        self.start()

    def _end(self, ask: Callable[[subprocess.Popen[bytes]], None], seconds: float = 20) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        # A leader that is gone may leave its children, so the whole group is ended.
        with contextlib.suppress(ProcessLookupError):
            ask(process)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class Postgres(Server):
    """PostgreSQL with a role and a database ``rsas``, and a password."""

    url: str  # postgresql+psycopg://rsas:SECRET@127.0.0.1:PORT/rsas

    def connect(self) -> Any:
        """A psycopg connection as ``rsas``; every statement is its own transaction."""
        import psycopg

        return psycopg.connect(self.url.replace("+psycopg", ""), autocommit=True)

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """``fast`` disconnects the clients and shuts down; ``immediate`` is like a crash."""
        sign = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode]
        self._end(lambda process: process.send_signal(sign))

    def kill(self) -> None:
        self.stop("immediate")  # its children are in sessions of their own

    def restart(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        self.stop(mode)
        self.start()


class S3(Server):
    """An object store in memory (moto), with one bucket; it comes back empty after a stop."""

    uri = "s3://rsas-test/runs"

    @property
    def endpoint(self) -> str:
        return f"http://{_HOST}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What pyarrow, boto3 and MLflow need in their process to find it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "rsas",
            "AWS_SECRET_ACCESS_KEY": "rsas",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self, seconds: float = 120) -> None:
        super().start(seconds)
        bucket = self.uri.split("/")[2]
        if (status := _http(self.port, "PUT", f"/{bucket}")) != 200:
            raise RuntimeError(f"moto answered {status} when asked for a bucket")


class MlflowServer(Server):
    """MLflow's tracking server."""

    @property
    def uri(self) -> str:
        return f"http://{_HOST}:{self.port}"


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[Postgres]:
    """PostgreSQL as Debian packages it; the test is skipped where it can't be had."""
    programs = _programs()
    password = secrets.token_hex(8)
    # PostgreSQL refuses root, and its user can't reach the folders of root's tests.
    options = _unprivileged()
    home = Path(tempfile.mkdtemp(prefix="rsas-postgres-", dir="/tmp"))
    server = None
    try:
        data, secret = home / "data", home / "password"
        secret.write_text(password)
        secret.chmod(0o600)
        if options:
            for path in (home, secret):
                os.chown(path, options["user"], options["group"])
        options |= {"cwd": home}
        environment = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "HOME": str(home)}
        how = ("--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync")
        initdb = subprocess.run(
            [programs / "initdb", "-D", data, "-U", "postgres", "--pwfile", secret, *how],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            **options,
        )
        if initdb.returncode:
            raise RuntimeError(f"initdb failed: {initdb.stderr}")
        secret.unlink()
        # What is committed still outlives a crash of the server, only not one of the machine.
        settings = ("-c", "fsync=off", "-c", f"listen_addresses={_HOST}", "-k", "")
        server = Postgres(
            "postgres",
            folder,
            lambda port: [f"{programs}/postgres", "-D", f"{data}", "-p", f"{port}", *settings],
            lambda port: _sql(port, password),
            environment,
            **options,
        )
        server.start()
        _sql(
            server.port,
            password,
            f"CREATE ROLE rsas LOGIN PASSWORD '{password}'",
            "CREATE DATABASE rsas OWNER rsas",
        )
        server.url = f"postgresql+psycopg://rsas:{password}@{_HOST}:{server.port}/rsas"
        yield server
    finally:
        if server:
            server.stop("immediate")
        shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def s3(folder: Path) -> Iterator[S3]:
    """An S3 service with an empty bucket."""
    server = S3(
        "s3",
        folder,
        lambda port: [sys.executable, "-m", "moto.server", "-H", _HOST, "-p", str(port)],
        lambda port: _http(port, "GET", "/moto-api/") == 200,
        _environment(),
    )
    with _running(server):
        yield server


@contextlib.contextmanager
def mlflow_server(folder: Path, backend_url: str) -> Iterator[MlflowServer]:
    """``mlflow server`` on a database; clients send artifacts to it, and it keeps them here."""
    settings = {
        "MLFLOW_BACKEND_STORE_URI": backend_url,
        "MLFLOW_ARTIFACTS_DESTINATION": str(Path(folder) / "artifacts"),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven more processes
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    command = (sys.executable, "-c", _MLFLOW, "server", "--workers", "1", "--host", _HOST)
    server = MlflowServer(
        "mlflow",
        folder,
        lambda port: [*command, "--port", str(port)],
        lambda port: _http(port, "GET", "/health") == 200,
        _environment() | settings,
    )
    with _running(server):
        yield server


class LosingProxy(http.server.ThreadingHTTPServer):
    """A proxy that passes requests on to a server on this machine, and loses some answers."""

    def __init__(self, upstream):
        super().__init__(("127.0.0.1", 0), _PassOn)
        self.upstream = upstream
        self.calm, self.lost, self._answers = False, Counter(), Counter()
        self.uri = f"http://127.0.0.1:{self.server_address[1]}"

    def loses(self, path):
        """Return whether to lose an answer: of each path, the first two and then each third one.

        The choice depends on the path alone, not on the order in which threads ask.
        """
        if self.calm:
            return False
        self._answers[path] += 1
        is_lost = self._answers[path] == 2 or self._answers[path] % 3 == 1
        self.lost[path] += is_lost
        return is_lost


class _PassOn(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _pass_on(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=60)
        with contextlib.closing(upstream):
            kept = {
                k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")
            }
            upstream.request(self.command, self.path, body, kept)
            answer = upstream.getresponse()
            content = answer.read()
        status = answer.status
        if self.command == "POST" and self.server.loses(self.path):
            self.close_connection = True
            if self.server.lost[self.path] % 2:
                return  # the client sees a connection that was reset
            status, content = 503, b"{}"
        self.send_response(status)
        self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass_on  # noqa: N815

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def losing_answers(upstream: int) -> Iterator[LosingProxy]:
    """A ``LosingProxy`` in front of the server at a port."""
    with LosingProxy(upstream) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()


def free_port() -> int:
    """A port that stays free while its server is stopped.

    Below the ports that the system hands to clients (32768 and above on Linux), or a client that
    knocks at a stopped server could be given the server's own port, and above those of Ray.
    """
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as candidate, contextlib.suppress(OSError):
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            candidate.bind((_HOST, port))
            return port


@contextlib.contextmanager
def _running(server: Server) -> Iterator[None]:
    try:
        server.start()
        yield
    finally:
        server.stop()


def _environment() -> dict[str, str]:
    """The caller's, less what would change a server."""
    mine = ("MLFLOW_", "_MLFLOW_", "PYTEST_", "MOTO_", "AWS_")
    return {name: value for name, value in os.environ.items() if not name.startswith(mine)}


def _http(port: int, method: str, path: str) -> int:
    """The status of the answer, or 0 when there is none."""
    connection = http.client.HTTPConnection(_HOST, port, timeout=10)
    try:
        connection.request(method, path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def _sql(port: int, password: str, *statements: str) -> bool:
    """Carry out statements as the superuser; whether the server answers, when there are none."""
    import psycopg

    login = {"user": "postgres", "password": password, "dbname": "postgres"}
    try:
        with psycopg.connect(
            host=_HOST, port=port, connect_timeout=5, autocommit=True, **login
        ) as connection:
            for statement in statements:
                connection.execute(statement)
    except psycopg.OperationalError:
        if statements:
            raise
        return False
    return True


def _unprivileged() -> dict[str, Any]:
    """How a subprocess gives up root; nothing when it has nothing to give up."""
    if os.geteuid():
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(name)
            return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    lacking("PostgreSQL refuses to run as root, and there is no other user")


def _programs() -> Path:
    """The folder with initdb and postgres."""
    folder = _search() or (_install() and _search())
    if not folder:
        lacking("needs PostgreSQL's initdb and postgres: apt-get install postgresql")
    return folder


def _search() -> Path | None:
    debian = Path("/usr/lib/postgresql").glob("[0-9]*/bin")
    folders = sorted(debian, key=lambda path: float(path.parent.name), reverse=True)
    if found := shutil.which("initdb"):
        folders.append(Path(found).resolve().parent)
    wanted = ("initdb", "postgres")
    return next((f for f in folders if all(os.access(f / w, os.X_OK) for w in wanted)), None)


@functools.cache
def _install() -> bool:
    """Try once; tests that run beside each other wait for one another."""
    if os.geteuid() or not shutil.which("apt-get"):
        return False
    with Path(tempfile.gettempdir(), "rsas-postgres.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(
            [_ROOT / ".ci" / "postgres"], stdin=subprocess.DEVNULL, timeout=400, check=False
        )
    return True
