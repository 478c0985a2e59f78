"""Sweeps on a real Ray cluster of two nodes, their files on S3; the second node is killed."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile

import pytest

from tests.faults.harness import EPOCHS, Place
from tests.servers import free_port, s3

pytestmark = pytest.mark.resource

RAY = [sys.executable, "-m", "ray.scripts.scripts"]


def start_node(environment, *arguments):
    """A node in the foreground: it ends with its process."""
    return subprocess.Popen(
        [*RAY, "start", "--block", "--num-cpus", "1", "--disable-usage-stats", *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def end(process):
    """A node and all of its processes, at once."""
    import psutil

    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for each in family:
        with contextlib.suppress(psutil.Error):
            each.kill()
    process.wait()


@pytest.fixture
def cluster(tmp_path):
    """(address, that of Ray Client, environment with keys and token, the second node, storage)."""
    scratch = tempfile.mkdtemp(prefix="rsas-ray-")  # sockets need a short path
    with s3(tmp_path) as storage:
        environment = {
            **os.environ,
            **storage.environment,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef",
        }
        environment.pop("RAY_ADDRESS", None)
        port, client_port = free_port(), free_port()
        address = f"127.0.0.1:{port}"
        head = start_node(
            # A loaded machine takes long to have a server for a client.
            environment
            | {"RAY_TMPDIR": scratch, "RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": "120"},
            *("--head", "--node-ip-address", "127.0.0.1", "--port", str(port)),
            *("--temp-dir", scratch, "--include-dashboard", "false"),
            *("--ray-client-server-port", str(client_port)),
        )
        second = None
        try:
            second = start_node(environment, "--address", address)
            yield address, f"ray://127.0.0.1:{client_port}", environment, second, storage
        finally:
            for node in (second, head):
                if node is not None and node.poll() is None:
                    end(node)


def test_trials_on_both_nodes_and_one_node_killed(cluster, tmp_path):
    address, client, environment, second, storage = cluster
    place = Place(
        tmp_path,
        options=["--address", address, "--storage", storage.uri, "--concurrency", "2"],
        seconds=0.4,
        environment=environment,
    )
    place.wait_for_nodes(address, 2)
    told = place.run("doctor", place.source, "--address", address, "--storage", storage.uri)
    assert "no faults: the cluster can run a sweep" in told
    assert told.count("MiB from the driver") == 2
    no_token = Place(tmp_path / "other", environment={"RAY_AUTH_TOKEN": "f" * 32})
    refused = no_token.run("doctor", place.source, "--address", address, expected=2, seconds=120)
    assert "no Ray cluster answers" in refused

    # From a machine that is no node of the cluster.
    place.run(
        *("sweep", place.source, "--name", "client", "--trials", "2", "--address", client),
        *("--storage", storage.uri),
    )

    sweep = place.sweep("s", 5)
    place.wait_for_epochs(sweep, 2 * EPOCHS)
    end(second)
    assert sweep.wait(300) == 0, place.output()
    with place.given_environment():
        os.environ.update(storage.environment)
        assert place.open("client").status().counts["complete"] == 2
        assert place.faults("client") == []
        folder = place.open("s")
        assert folder.status().counts["complete"] == 5
        assert place.faults("s") == []
        nodes = set()
        for trial in folder.status().trials:
            for name in (folder.trials / trial.trial_id).names():
                if name.startswith("history"):
                    lines = (folder.trials / trial.trial_id).read(name).decode().splitlines()
                    nodes |= {json.loads(line)["node"] for line in lines}
        assert len(nodes) == 2
        assert sorted(path.name for path in (place.runs / "s").iterdir()) == [
            "study.journal",
            "sweep.json",
            "sweep.json.copy",
        ]
