"""Export trained networks as files, and measure their sizes and latencies.

``save`` writes safetensors, ONNX or a compressed sparse file. ``load`` reads safetensors and sparse
files; onnxruntime runs ONNX files. Loading runs no code that a file contains or names.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, cast, get_args

from torch import nn

from rsas.errors import InputError
from rsas.export.files import (
    MAX_BYTES,
    from_bytes,
    read_file,
    to_safetensors,
    to_sparse,
    write_file,
)
from rsas.export.latency import Report, measure
from rsas.export.network import Network, network_of, rebuild

if TYPE_CHECKING:
    from rsas.trainer import RunResult

__all__ = [
    "SUFFIXES",
    "Format",
    "Network",
    "Report",
    "check_format",
    "encode",
    "load",
    "network_of",
    "report",
    "save",
    "write_file",
]

Format = Literal["safetensors", "onnx", "sparse"]
SUFFIXES = {"safetensors": ".safetensors", "onnx": ".onnx", "sparse": ".rsas"}


def save(
    source: Network | RunResult | nn.Module,
    path: str | os.PathLike[str],
    *,
    format: Format,
    input_shape: tuple[int, ...] | None = None,
) -> None:
    """Write a network, with its masks folded into its weights; an existing file is replaced.

    Args:
        source: the result of ``rsas.train``, or any model, which is not changed. The model may
            have masks of ``torch.nn.utils.prune``.
        path: of the file.
        format: ``safetensors``; ``onnx``, compared with torch in onnxruntime before the file is
            written; or ``sparse``, as ``rsas.export.files`` describes it.
        input_shape: shape of one input, without the batch; needed for ``onnx`` of an ``nn.Module``.

    Raises:
        InputError: the format is unknown or cannot hold the network, its extra is not installed,
            or the file cannot be written.
    """
    write_file(path, encode(network_of(source, input_shape), check_format(format)))


def load(
    path: str | os.PathLike[str],
    *,
    builder: Callable[..., nn.Module] | None = None,
    max_bytes: int = MAX_BYTES,
) -> nn.Module:
    """Return the network of a safetensors or sparse file, in eval mode, with equal bits.

    Args:
        path: of the file.
        builder: makes the network, unless the network is one of rsas (mlp, resnet18, vgg16). It
            gets those of ``input_shape``, ``num_classes`` and ``width_multiplier`` that it names
            as parameters. A function that the file names is never run.
        max_bytes: largest size in memory of the network of a sparse file. A file of some kB can
            declare gigabytes.

    Raises:
        InputError: the file cannot be read, is corrupt, needs more than ``max_bytes`` or does not
            fit the network. Only a corrupt file may be unpacked in part before the error.
    """
    source = os.fspath(path)
    return rebuild(from_bytes(read_file(path), source, max_bytes=max_bytes), builder, source)


def report(network: Network, content: bytes, format: Format) -> Report:
    """Measure sizes, operations and latencies of a network that was exported as ``content``."""
    onnx = content if format == "onnx" else None
    dense = len(content if format == "safetensors" else encode(network, "safetensors"))
    return measure(network, dense_bytes=dense, file_bytes=len(content), onnx=onnx)


def encode(network: Network, format: Format) -> bytes:
    """Return the content of a file.

    Raises:
        InputError: the format cannot hold the network, or its extra is not installed.
    """
    if format == "onnx":
        from rsas.export.onnx_file import to_onnx

        return to_onnx(network)
    write = to_safetensors if format == "safetensors" else to_sparse
    return write(network.model.state_dict(), network.metadata())


def check_format(name: str) -> Format:
    """Return the format of a name.

    Raises:
        InputError: the format is unknown.
    """
    if name not in get_args(Format):
        raise InputError(f"format {name!r}: expected one of {', '.join(get_args(Format))}")
    return cast(Format, name)
