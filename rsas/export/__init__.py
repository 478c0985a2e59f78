"""A trained network as a file that others can use, and what it costs to run.

``save`` writes safetensors, ONNX or a compressed sparse file; ``load`` reads the first and the
last back, onnxruntime runs the second; ``report`` measures. Loading executes nothing that a file
holds or names.
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
    """Write a network, its masks folded into its weights; a file that is there is replaced.

    Args:
        source: what ``rsas.train`` returned, or any model, which may have masks of
            ``torch.nn.utils.prune`` on it and is left as it is.
        path: of the file.
        format: ``safetensors``; ``onnx``, run in onnxruntime and compared first; or ``sparse``, as
            ``rsas.export.files`` describes it.
        input_shape: of one input; ``onnx`` needs it for an ``nn.Module``.

    Raises:
        InputError: the format is none of these or cannot hold the network, its extra is not
            installed, or the file cannot be written.
    """
    write_file(path, encode(network_of(source, input_shape), check_format(format)))


def load(
    path: str | os.PathLike[str],
    *,
    builder: Callable[..., nn.Module] | None = None,
    max_bytes: int = MAX_BYTES,
) -> nn.Module:
    """The network of a safetensors or sparse file, in eval mode, with its weights bit for bit.

    Args:
        path: of the file.
        builder: makes the network where it is not one of rsas (mlp, resnet18, vgg16); called with
            those of ``input_shape``, ``num_classes`` and ``width_multiplier`` that it names as
            parameters. A function that the file names is never run.
        max_bytes: which the network of a sparse file may take in memory; some kB in a file can
            stand for gigabytes.

    Raises:
        InputError: the file cannot be read, is damaged, takes more than ``max_bytes`` or does not
            fit the network. Nothing of it was unpacked, then, unless it is damaged.
    """
    what = os.fspath(path)
    return rebuild(from_bytes(read_file(path), what, max_bytes=max_bytes), builder, what)


def report(network: Network, content: bytes, format: Format) -> Report:
    """Sizes, operations and latency of a network that is exported with this content."""
    onnx = content if format == "onnx" else None
    dense = len(content if format == "safetensors" else encode(network, "safetensors"))
    return measure(network, dense_bytes=dense, file_bytes=len(content), onnx=onnx)


def encode(network: Network, format: Format) -> bytes:
    """The content of a file.

    Raises:
        InputError: the format cannot hold the network, or its extra is not installed.
    """
    if format == "onnx":
        from rsas.export.onnx_file import to_onnx

        return to_onnx(network)
    write = to_safetensors if format == "safetensors" else to_sparse
    return write(network.model.state_dict(), network.metadata())


def check_format(name: str) -> Format:
    """The format of this name.

    Raises:
        InputError: there is none.
    """
    for known in get_args(Format):
        if name == known:
            return cast(Format, known)
    raise InputError(f"format {name!r}: expected one of {', '.join(get_args(Format))}")
