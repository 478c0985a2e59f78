"""Measure the latency of a network, dense and sparse, on this machine's CPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rsas.errors import InputError, first_line
from rsas.export import onnx_file
from rsas.export.flops import Counts, count
from rsas.export.network import Network
from rsas.export.onnx_file import TOLERANCE, difference
from rsas.export.sparse_layers import convertible, scipy_csr, torch_csr, with_products
from rsas.sparse import prunable

__all__ = ["BATCHES", "Execution", "Report", "measure"]

BATCHES = (1, 64)
_DENSE = "dense torch"

_SECONDS = 2.0  # of timing a batch size, unless the least number of rounds takes longer
_ROUNDS = (5, 200)  # at least, at most
_WARM_UP = 1

_Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Execution:
    """The latencies of one way to compute the network."""

    name: str
    is_sparse: bool  # multiplies only with weights that are not zero
    seconds: dict[int, float]  # batch size -> median of a call


@dataclass(frozen=True)
class Report:
    """The measured sizes and latencies of an export."""

    counts: Counts
    dense_bytes: int  # of a safetensors file of the network, with its zeros
    file_bytes: int
    threads: int  # of torch and onnxruntime; scipy has one
    executions: list[Execution]  # the dense one of torch first; empty without an input shape
    notes: list[str]  # the omitted executions, with reasons

    @property
    def verdicts(self) -> list[str]:
        """One sentence per batch size: the fastest sparse execution against dense torch."""
        if not any(execution.is_sparse for execution in self.executions):
            return ["nothing sparse could be timed: no claim of speed"] * bool(self.executions)
        return [_verdict(self.executions, batch) for batch in self.executions[0].seconds]


def measure(
    network: Network,
    *,
    dense_bytes: int,
    file_bytes: int,
    onnx: bytes | None = None,
) -> Report:
    """Count and time a network on the CPU, with torch's number of threads.

    An execution is omitted if its outputs differ from those of dense torch beyond float32 rounding.

    Args:
        network: the network.
        dense_bytes: size of the dense file.
        file_bytes: size of the exported file.
        onnx: the network as ONNX; if None, it is exported for the timing.

    Raises:
        InputError: the model does not take inputs of its ``input_shape``, or returns no tensor.
    """
    model, shape = network.model, network.input_shape
    counts = count(model, shape)
    threads = torch.get_num_threads()
    if shape is None:
        notes = ["latency: not measured, as the shape of an input is not known (input_shape=)"]
        return Report(counts, dense_bytes, file_bytes, threads, [], notes)
    if any(p.dtype != torch.float32 for p in model.parameters() if p.is_floating_point()):
        notes = ["latency: measured of float32 networks only"]
        return Report(counts, dense_bytes, file_bytes, threads, [], notes)
    runs: dict[str, tuple[bool, _Run]] = {_DENSE: (False, model)}
    notes = [*_add_sparse(runs, model), *_add_onnx(runs, network, onnx), _semi_structured(model)]
    generator = torch.Generator().manual_seed(0)
    timed: dict[str, dict[int, float]] = {name: {} for name in runs}
    with torch.inference_mode():
        inputs = {n: torch.randn(n, *shape, generator=generator) for n in BATCHES}
        for name, reason in _wrong(runs, inputs).items():
            notes.append(f"{name}: left out, {reason}")
            del runs[name], timed[name]
        for batch, x in inputs.items():
            medians = interleaved({name: run for name, (_, run) in runs.items()}, x, _SECONDS)
            for name, median in medians.items():
                timed[name][batch] = median
    executions = [Execution(name, runs[name][0], timed[name]) for name in runs]
    return Report(counts, dense_bytes, file_bytes, threads, executions, notes)


def interleaved(runs: dict[str, _Run], x: Tensor, seconds: float) -> dict[str, float]:
    """Return the median seconds of a call of each run.

    The runs take turns, so that a drift of the machine affects all. The order rotates each round,
    because each run finds the caches as the run before left them.
    """
    for run in runs.values():
        for _ in range(_WARM_UP):
            run(x)
    times: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    end = time.perf_counter() + seconds
    for done in range(_ROUNDS[1]):
        if done >= _ROUNDS[0] and time.perf_counter() > end:
            break
        for name in names:
            began = time.perf_counter()
            runs[name](x)
            times[name].append(time.perf_counter() - began)
        names.append(names.pop(0))
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def _add_sparse(runs: dict[str, tuple[bool, _Run]], model: nn.Module) -> list[str]:
    """Add the sparse executions to ``runs``, and return notes."""
    layers = {layer.name: layer.places[0].module for layer in prunable(model)}
    dense = [name for name, module in layers.items() if not convertible(module)]
    if len(dense) == len(layers):
        return ["torch CSR, scipy CSR: no Linear or Conv2d layer that they can compute"]
    notes = []
    for name, product in (("torch CSR", torch_csr), ("scipy CSR", scipy_csr)):
        try:
            runs[name] = (True, with_products(model, product))
        except (ImportError, RuntimeError) as error:
            notes.append(f"{name}: not available here ({first_line(error)})")
    if dense:
        notes.append(f"torch CSR, scipy CSR: {', '.join(dense)} computed densely")
    if any(isinstance(module, nn.Conv2d) for module in layers.values()):
        notes.append("torch CSR, scipy CSR: convolutions by unfolding images into patches")
    return notes


def _add_onnx(
    runs: dict[str, tuple[bool, _Run]], network: Network, content: bytes | None
) -> list[str]:
    if not onnx_file.available():
        return ["onnxruntime: not installed; pip install 'rsas[export]'"]
    try:
        content = onnx_file.to_onnx(network) if content is None else content
    except InputError as error:
        return [f"onnxruntime: left out ({error})"]
    session = onnx_file.session(content, threads=torch.get_num_threads())
    runs["dense onnxruntime"] = (
        False,
        lambda x: torch.from_numpy(onnx_file.run(session, x)),
    )
    return []


def _wrong(runs: dict[str, tuple[bool, _Run]], inputs: dict[int, Tensor]) -> dict[str, str]:
    """Return the executions whose outputs differ from those of dense torch -> the reasons."""
    reasons = {}
    for x in inputs.values():
        outputs = runs[_DENSE][1](x)
        if not isinstance(outputs, Tensor):
            raise InputError(f"the model returns {type(outputs).__name__}, not a tensor")
        expected = outputs.numpy()
        for name, (_, run) in runs.items():
            try:
                apart = difference(run(x).numpy(), expected)
            except Exception as error:  # by the user's model
                reasons[name] = f"it failed ({type(error).__name__})"
            else:
                if not apart <= TOLERANCE:
                    reasons[name] = f"its outputs differ by {apart:.1e} of the largest"
    reasons.pop(_DENSE, None)  # its outputs are NaN, and differ from themselves
    return reasons


def _semi_structured(model: nn.Module) -> str:
    """Return a note on the 2:4 sparsity of GPUs, which is not timed."""
    weights = [layer.weight for layer in prunable(model) if layer.weight.ndim == 2]
    fit = sum(fits_2_4(weight) for weight in weights)
    line = f"2:4 on GPUs: does not apply to unstructured masks; {fit} of {len(weights)} Linear "
    return line + "layers happen to have at most two weights in every four; not timed"


def fits_2_4(weight: Tensor) -> bool:
    """Return whether each four neighbours in a row have at most two nonzero weights."""
    if weight.shape[1] % 4:
        return False
    return bool((weight.reshape(-1, 4).count_nonzero(dim=1) <= 2).all())


def _verdict(executions: Sequence[Execution], batch: int) -> str:
    dense = executions[0].seconds[batch]
    sparse = min((e for e in executions if e.is_sparse), key=lambda e: e.seconds[batch])
    best = min((e for e in executions if not e.is_sparse), key=lambda e: e.seconds[batch])
    took = sparse.seconds[batch]
    line = f"at batch {batch} the fastest sparse execution ({sparse.name}) takes "
    line += f"{took / dense:.2f}x as long as dense torch"
    if best is not executions[0]:
        line += f", {took / best.seconds[batch]:.2f}x as long as the fastest dense ({best.name})"
    return f"{line}: sparse is {'faster' if took < best.seconds[batch] else 'slower'} here"
