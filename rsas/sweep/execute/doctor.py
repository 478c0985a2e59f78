"""``rsas doctor``: can this cluster run this experiment? Asked of every node."""

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
from rsas import build
from rsas.data import Arrays
from rsas.errors import first_line
from rsas.redact import redact
from rsas.sweep.execute.cluster import slots_of
from rsas.sweep.experiment import Experiment
from rsas.sweep.files.file_store import FileStore

__all__ = ["Finding", "examine"]

_SECONDS = 120.0  # for a node to answer; it may have to import torch first

Versions = dict[str, str]


@dataclass(frozen=True)
class Finding:
    """What was found on a node, or on the driver."""

    node: str
    results: dict[str, str] = field(default_factory=dict)  # check -> what was seen
    faults: dict[str, str] = field(default_factory=dict)  # check -> what to do about it


def examine(
    experiment: Experiment, arrays: Arrays, *, storage: str | None, tracking_uri: str | None
) -> list[Finding]:
    """Ask every node of the connected cluster for what a sweep needs of it.

    Args:
        experiment: its resources and base configuration.
        arrays: the data set, as the driver has it; nodes get it through Ray.
        storage: where trials would keep their files; None is the driver's own disk.
        tracking_uri: of the MLflow server; None is a file beside the driver.

    Returns:
        One finding a node, the driver's first.
    """
    token = uuid.uuid4().hex
    mine = Finding("driver", {"versions": _told(_versions())})
    place = None if storage is None else FileStore(storage)
    if place is not None:
        try:
            place.write(f"{_folder(token)}/driver", token.encode())
            mine.results["storage"] = "written"
        except OSError as error:
            mine.faults["storage"] = f"{first_line(error)}; give a folder or bucket you may write"
    if tracking_uri is not None:
        _note_tracking(mine, tracking_uri)
    mine.results["data"] = f"{experiment.base.dataset}, {_bytes(arrays) / 2**20:.0f} MiB"
    nodes = [node for node in ray.nodes() if node["Alive"]]
    shared = ray.put(arrays)
    asked = {
        node["NodeID"]: _ask(node, experiment, shared, storage, tracking_uri, token)
        for node in nodes
    }
    deadline = time.monotonic() + _SECONDS
    findings = [mine]
    for node in nodes:
        name = node.get("NodeManagerHostname") or node["NodeManagerAddress"]
        found = Finding(f"{name} {node['NodeID'][:6]}")
        try:
            left = max(deadline - time.monotonic(), 0.0)
            results, faults = ray.get(asked[node["NodeID"]], timeout=left)
            found.results.update(results)
            found.faults.update(faults)
            _compare_versions(found, results["versions"])
        except (RayError, TimeoutError) as error:
            lines = redact(str(error)).strip().splitlines()  # the last one tells the cause
            reason = lines[-1][:200] if lines else "no answer"
            found.faults["answers"] = (
                f"no trial can run there ({type(error).__name__}: {reason}); is rsas installed "
                "there, in the same Python?"
            )
        _note_slots(found, node, experiment, len(nodes))
        findings.append(found)
    if not any("slots" in f.results for f in findings):
        need = experiment.resources
        mine.faults["slots"] = (
            f"no node has room for a trial of {need.cpus:g} CPUs and {need.gpus:g} GPUs; ask for "
            "less with --cpus and --gpus, or add nodes"
        )
    if place is not None and "storage" in mine.results:
        with contextlib.suppress(OSError):  # what was found is worth more
            place.delete(_folder(token))
    return findings


def _folder(token: str) -> str:
    """Of one examination on the storage: another one may be under way there."""
    return f".rsas-doctor-{token}"


def _ask(
    node: dict[str, Any],
    experiment: Experiment,
    arrays: Any,  # in the object store
    storage: str | None,
    tracking_uri: str | None,
    token: str,
) -> Any:
    strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    gpus = experiment.resources.gpus if node["Resources"].get("GPU") else 0
    options = {"num_cpus": 0, "num_gpus": gpus, "scheduling_strategy": strategy, "max_retries": 0}
    look: Any = ray.remote(_look)
    look = look.options(**options)
    return look.remote(experiment.base.to_dict(), gpus, arrays, storage, tracking_uri, token)


def _look(
    base: dict[str, Any],
    gpus: float,
    arrays: Arrays,
    storage: str | None,
    tracking_uri: str | None,
    token: str,
) -> tuple[dict[str, str], dict[str, str]]:
    """Runs on the node."""
    found = Finding("", {"versions": _told(_versions())})
    if storage is not None:
        _note_storage(found, FileStore(storage), token)
    if tracking_uri is not None:
        _note_tracking(found, tracking_uri)
    found.results["data"] = f"{_bytes(arrays) / 2**20:.0f} MiB from the driver"
    if gpus and torch.cuda.is_available():
        found.results["GPU"] = torch.cuda.get_device_name()
    elif gpus:
        found.faults["GPU"] = "torch sees none; install torch for CUDA, and the driver, there"
    try:
        build.check(rsas.TrainConfig.from_dict(base | {"device": "cpu"}), arrays)
        found.results["model"] = base["model"]
    except Exception as error:
        told = first_line(error)
        found.faults["model"] = f"{told}; is its code on this node?"
    return found.results, found.faults


def _note_storage(found: Finding, storage: FileStore, token: str) -> None:
    began = time.perf_counter()
    try:
        there = storage.read(f"{_folder(token)}/driver")
        storage.write(f"{_folder(token)}/{uuid.uuid4().hex}", b"")
    except OSError as error:
        told = first_line(error)
        found.faults["storage"] = f"{told}; mount it there, or give its keys to that node"
        return
    if there != token.encode():
        found.faults["storage"] = (
            f"{storage.place} is another folder there than on the driver; give one that is "
            "shared, such as /nfs/... or s3://..."
        )
    else:
        found.results["storage"] = f"{1000 * (time.perf_counter() - began):.0f} ms"


def _note_tracking(found: Finding, uri: str) -> None:
    place = urllib.parse.urlsplit(uri)
    if place.scheme not in ("http", "https"):
        found.results["tracking"] = f"{place.scheme}: the driver's own"
        return
    try:
        given = place.port
    except ValueError:
        found.faults["tracking"] = f"{redact(uri)}: its port is no number"
        return
    port = given or {"http": 80, "https": 443}[place.scheme]
    try:
        with socket.create_connection((place.hostname or "", port), timeout=5):
            found.results["tracking"] = "reached"
    except OSError as error:
        found.faults["tracking"] = (
            f"{place.hostname}:{port} is not reached ({error.strerror or error}); start the "
            "server on an address of the network (mlflow server --host), open the port"
        )


def _note_slots(found: Finding, node: dict[str, Any], experiment: Experiment, nodes: int) -> None:
    available = node["Resources"]
    slots = slots_of(available, experiment.resources)
    gpus = f", {available['GPU']:g} GPUs" if "GPU" in available else ""
    told = f"{slots} of {available.get('CPU', 0):g} CPUs{gpus}"
    if slots or nodes > 1:  # a head node without slots is as it should be
        found.results["slots" if slots else "no slots"] = told


def _compare_versions(found: Finding, theirs: str) -> None:
    mine = _told(_versions())
    if theirs != mine:
        del found.results["versions"]
        found.faults["versions"] = f"{theirs}, but the driver has {mine}; install the same"


def _versions() -> Versions:
    return {
        "rsas": rsas.__version__,
        "torch": torch.__version__.partition("+")[0],
        "ray": ray.__version__,
        "python": ".".join(platform.python_version_tuple()[:2]),
    }


def _told(versions: Versions) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _bytes(arrays: Arrays) -> int:
    return sum(part.nbytes for part in vars(arrays).values() if hasattr(part, "nbytes"))
