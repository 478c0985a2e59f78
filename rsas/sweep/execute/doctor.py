"""``rsas doctor``: check on every node whether the cluster can run an experiment."""

from __future__ import annotations

import contextlib
import platform
import socket
import time
import urllib.parse
import uuid
from dataclasses import dataclass, field
from typing import Any

import ray
import torch
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import rsas
from rsas.errors import first_line
from rsas.redact import redact
from rsas.sweep.execute.cluster import slots_of
from rsas.sweep.execute.task import LoopTask, Task
from rsas.sweep.experiment import Experiment
from rsas.sweep.files.file_store import FileStore

__all__ = ["Finding", "examine"]

_SECONDS = 120.0  # for a node to answer; it may have to import torch first

Versions = dict[str, str]


@dataclass(frozen=True)
class Finding:
    """The results of the checks on a node, or on the driver."""

    node: str
    results: dict[str, str] = field(default_factory=dict)  # check -> observation
    faults: dict[str, str] = field(default_factory=dict)  # check -> problem and remedy


def examine(
    experiment: Experiment,
    task: Task,
    config: dict[str, Any],
    *,
    storage: str | None,
    tracking_uri: str | None,
) -> list[Finding]:
    """Check that every node of the connected cluster has all that a sweep needs.

    Args:
        experiment: its resources.
        task: the training of its trials; nodes receive its data set through Ray.
        config: the fields of a configuration to check.
        storage: where trials would keep their files; None is the driver's own disk.
        tracking_uri: of the MLflow server; None is a file beside the driver.

    Returns:
        One finding per node, the driver's first.
    """
    token = uuid.uuid4().hex
    driver = Finding("driver", {"versions": _to_text(_versions())})
    store = None if storage is None else FileStore(storage)
    if store is not None:
        try:
            store.write(f"{_folder(token)}/driver", token.encode())
            driver.results["storage"] = "written"
        except OSError as error:
            driver.faults["storage"] = f"{first_line(error)}; give a folder or bucket you may write"
    if tracking_uri is not None:
        _note_tracking(driver, tracking_uri)
    driver.results["data"] = _data(task)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    shared = ray.put(task)
    answers = {
        node["NodeID"]: _ask(node, experiment, shared, config, storage, tracking_uri, token)
        for node in nodes
    }
    deadline = time.monotonic() + _SECONDS
    findings = [driver]
    for node in nodes:
        name = node.get("NodeManagerHostname") or node["NodeManagerAddress"]
        finding = Finding(f"{name} {node['NodeID'][:6]}")
        try:
            left = max(deadline - time.monotonic(), 0.0)
            results, faults = ray.get(answers[node["NodeID"]], timeout=left)
            finding.results.update(results)
            finding.faults.update(faults)
            _compare_versions(finding, results["versions"])
        except (RayError, TimeoutError) as error:
            lines = redact(str(error)).strip().splitlines()  # the last line has the cause
            reason = lines[-1][:200] if lines else "no answer"
            finding.faults["answers"] = (
                f"no trial can run there ({type(error).__name__}: {reason}); is rsas installed "
                "there, in the same Python?"
            )
        _note_slots(finding, node, experiment, len(nodes))
        findings.append(finding)
    if not any("slots" in f.results for f in findings):
        need = experiment.resources
        driver.faults["slots"] = (
            f"no node has room for a trial of {need.cpus:g} CPUs and {need.gpus:g} GPUs; ask for "
            "less with --cpus and --gpus, or add nodes"
        )
    if store is not None and "storage" in driver.results:
        with contextlib.suppress(OSError):  # the findings matter more than a file left behind
            store.delete(_folder(token))
    return findings


def _folder(token: str) -> str:
    """Return the folder of one examination, as another one may use the same storage."""
    return f".rsas-doctor-{token}"


def _ask(
    node: dict[str, Any],
    experiment: Experiment,
    task: Any,  # in the object store
    config: dict[str, Any],
    storage: str | None,
    tracking_uri: str | None,
    token: str,
) -> Any:
    strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    gpus = experiment.resources.gpus if node["Resources"].get("GPU") else 0
    options = {"num_cpus": 0, "num_gpus": gpus, "scheduling_strategy": strategy, "max_retries": 0}
    check: Any = ray.remote(_check_node)
    return check.options(**options).remote(task, config, gpus, storage, tracking_uri, token)


def _check_node(
    task: Task,
    config: dict[str, Any],
    gpus: float,
    storage: str | None,
    tracking_uri: str | None,
    token: str,
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the results and the faults of the node on which this function runs."""
    finding = Finding("", {"versions": _to_text(_versions())})
    if storage is not None:
        _note_storage(finding, FileStore(storage), token)
    if tracking_uri is not None:
        _note_tracking(finding, tracking_uri)
    finding.results["data"] = f"{_data(task)} from the driver"
    if gpus and torch.cuda.is_available():
        finding.results["GPU"] = torch.cuda.get_device_name()
    elif gpus:
        finding.faults["GPU"] = "torch sees none; install torch for CUDA, and the driver, there"
    try:
        task.check(task.config_of(config | {"device": "cpu"}))
        finding.results["model"] = config.get("model", "built by the loop")
    except Exception as error:
        finding.faults["model"] = f"{first_line(error)}; is its code on this node?"
    return finding.results, finding.faults


def _note_storage(finding: Finding, storage: FileStore, token: str) -> None:
    began = time.perf_counter()
    try:
        content = storage.read(f"{_folder(token)}/driver")
        storage.write(f"{_folder(token)}/{uuid.uuid4().hex}", b"")
    except OSError as error:
        reason = first_line(error)
        finding.faults["storage"] = f"{reason}; mount it there, or give its keys to that node"
        return
    if content != token.encode():
        finding.faults["storage"] = (
            f"{storage.location} is another folder there than on the driver; give one that is "
            "shared, such as /nfs/... or s3://..."
        )
    else:
        finding.results["storage"] = f"{1000 * (time.perf_counter() - began):.0f} ms"


def _note_tracking(finding: Finding, uri: str) -> None:
    server = urllib.parse.urlsplit(uri)
    if server.scheme not in ("http", "https"):
        finding.results["tracking"] = f"{server.scheme}: the driver's own"
        return
    try:
        given = server.port
    except ValueError:
        finding.faults["tracking"] = f"{redact(uri)}: its port is not a number"
        return
    port = given or {"http": 80, "https": 443}[server.scheme]
    try:
        with socket.create_connection((server.hostname or "", port), timeout=5):
            finding.results["tracking"] = "reached"
    except OSError as error:
        finding.faults["tracking"] = (
            f"{server.hostname}:{port} is not reached ({error.strerror or error}); start the "
            "server on an address of the network (mlflow server --host), open the port"
        )


def _note_slots(finding: Finding, node: dict[str, Any], experiment: Experiment, nodes: int) -> None:
    available = node["Resources"]
    slots = slots_of(available, experiment.resources)
    gpus = f", {available['GPU']:g} GPUs" if "GPU" in available else ""
    text = f"{slots} of {available.get('CPU', 0):g} CPUs{gpus}"
    if slots or nodes > 1:  # the head node of a larger cluster may have none
        finding.results["slots" if slots else "no slots"] = text


def _compare_versions(finding: Finding, theirs: str) -> None:
    mine = _to_text(_versions())
    if theirs != mine:
        del finding.results["versions"]
        finding.faults["versions"] = f"{theirs}, but the driver has {mine}; install the same"


def _versions() -> Versions:
    return {
        "rsas": rsas.__version__,
        "torch": torch.__version__.partition("+")[0],
        "ray": ray.__version__,
        "python": ".".join(platform.python_version_tuple()[:2]),
    }


def _to_text(versions: Versions) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _data(task: Task) -> str:
    if isinstance(task, LoopTask):
        return "read by the loop"
    parts = vars(task.arrays).values()
    size = sum(part.nbytes for part in parts if hasattr(part, "nbytes"))
    return f"{task.name}, {size / 2**20:.0f} MiB"
