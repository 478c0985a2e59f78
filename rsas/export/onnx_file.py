"""Make ONNX files, checked in onnxruntime; needs the extra ``export``."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from rsas.errors import InputError
from rsas.export.network import Network

__all__ = ["available", "check", "session", "to_onnx"]

TOLERANCE = 1e-4
"""Largest difference of outputs, as a share of the largest output. Float32 rounding through twenty
layers gives about a hundredth of this; a wrong operation or weight gives far more."""

_BATCHES = (1, 2, 5)
_LIMIT = 2**31  # bytes of a protobuf message


def available() -> bool:
    """Return whether onnxruntime is installed."""
    return importlib.util.find_spec("onnxruntime") is not None


def to_onnx(network: Network) -> bytes:
    """Return the content of an ONNX file, after ``check`` of the file.

    The file has the input ``input``, shape (batch, ...), and the output ``output``, for any batch.

    Raises:
        InputError: the extra is not installed, the model cannot be exported, or outputs differ.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(name)
        except ImportError:
            raise InputError(
                f"format 'onnx': {name} is not installed; pip install 'rsas[export]'"
            ) from None
    if network.input_shape is None:
        raise InputError("format 'onnx': needs input_shape=, the shape of one input of the model")
    kinds = {str(p.dtype) for p in network.model.parameters() if p.is_floating_point()}
    if kinds - {"torch.float32"}:
        raise InputError(f"format 'onnx': expected float32 weights, not {', '.join(sorted(kinds))}")
    size = sum(tensor.nbytes for tensor in network.model.state_dict().values())
    if size >= _LIMIT:
        raise InputError(f"format 'onnx': {size} bytes of weights; one file holds less than 2 GiB")
    try:
        with _quiet():
            outputs = network.model(torch.zeros(2, *network.input_shape))
            if not isinstance(outputs, torch.Tensor):
                raise TypeError(f"it returns {type(outputs).__name__}, not a tensor")
            program = torch.onnx.export(
                network.model,
                (torch.zeros(2, *network.input_shape),),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=["input"],
                output_names=["output"],
                verbose=False,
            )
        assert program is not None
        proto = program.model_proto
    except Exception as error:  # torch raises many kinds
        lines = [line for line in str(error).splitlines() if line.strip()]
        reason = f"{type(error).__name__}: {lines[0] if lines else ''}"
        raise InputError(f"format 'onnx': the model cannot be exported ({reason})") from None
    for key, value in network.metadata().items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = f"rsas.{key}", json.dumps(value)
    content: bytes = proto.SerializeToString()
    check(content, network.model, network.input_shape)
    return content


def check(content: bytes, model: nn.Module, input_shape: tuple[int, ...]) -> float:
    """Compare outputs in onnxruntime and torch on random inputs in batches of 1, 2 and 5.

    Returns:
        The largest difference, as a share of the largest output; at most 1e-4.

    Raises:
        InputError: the outputs differ by more.
    """
    runs = session(content, threads=torch.get_num_threads())
    generator = torch.Generator().manual_seed(0)
    apart = []
    for batch in _BATCHES:
        x = torch.randn(batch, *input_shape, generator=generator)
        with torch.inference_mode():
            expected = model(x).numpy()
        apart.append(difference(run(runs, x), expected))
    worst = float(np.max(apart))  # NaN if any difference is NaN
    if not worst <= TOLERANCE:
        raise InputError(
            f"format 'onnx': onnxruntime's outputs differ from torch's by {worst:.1e} of the "
            f"largest, more than rounding ({TOLERANCE:.0e}); nothing was written"
        )
    return worst


def difference(outputs: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    """Return the largest absolute difference, as a share of the largest expected value.

    The difference is NaN if a value is NaN, and infinite if the shapes differ.
    """
    if outputs.shape != expected.shape:
        return float("inf")
    scale = float(np.abs(expected).max())
    apart = float(np.abs(outputs - expected).max())
    return apart / scale if scale > 0 else apart


def session(content: bytes, *, threads: int) -> Any:
    """Return a session of onnxruntime for the content of a file, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run(runs: Any, x: torch.Tensor) -> npt.NDArray[np.float32]:
    """Return the outputs of a session for a batch."""
    outputs: npt.NDArray[np.float32] = runs.run(None, {"input": x.numpy()})[0]
    return outputs


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which prints, warns and logs; its errors are raised."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
