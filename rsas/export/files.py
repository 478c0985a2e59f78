"""Files that hold tensors and JSON metadata: safetensors, and a compressed sparse format.

Both have a SHA-256 of their content, which shows damage, but not who wrote a file. Reading a file
runs no code. A sparse file of some kB can declare gigabytes of zeros. So the declared sizes are
compared with a limit, and by ``rsas.export.load`` with the network, before the file is unpacked.

safetensors: a plain safetensors file of the state of the network; weights that are off are zero.
Its metadata has two texts: ``rsas``, JSON, and ``sha256``, the ``_digest`` in hexadecimal.

sparse: integers and tensors are little-endian.

======== ========= ===========================================================================
offset   bytes     content
======== ========= ===========================================================================
0        8         89 52 53 41 53 0D 0A 01; the last byte is the version
8        4         H, unsigned
12       H         JSON in UTF-8: ``metadata``, any value, and ``tensors``, a list
12 + H             the sections, without gaps, in the order of the list
end - 32 32        SHA-256 of all bytes before it
======== ========= ===========================================================================

An entry of ``tensors`` has ``name``, ``dtype`` (``float32``, as torch names it), ``shape``,
``mask`` and ``values``. The last two describe one section each: ``[codec, bytes]``, with the codec
``raw``, ``zlib`` or ``lzma``, and the number of bytes in the file. A tensor of n elements has

- ``mask`` null, and all its elements as ``values``, in row-major order; or
- ``mask`` a section of ceil(n / 8) bytes with one bit per element, the highest bit of a byte first,
  spare bits 0, and as ``values`` the elements whose bit is 1, in order. The others are zero.

``values`` are stored in planes: byte 0 of each element, then byte 1 of each, and so on. A bit is 0
if all bits of the element are zero, independent of the mask of training. So -0.0 and NaN keep their
bits. A mask is used if it makes a tensor smaller.

A mask of 784,000 bits with 10% ones takes 98,000 bytes raw, 54,500 in zlib and 48,400 in lzma. Its
random float32 values take 314,200 bytes raw, 268,600 in zlib and 265,800 in lzma, which needs three
times as long. So masks use lzma and values use zlib, if this makes them smaller.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import lzma
import math
import os
import uuid
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rsas.errors import InputError, first_line

__all__ = [
    "MAX_BYTES",
    "Stored",
    "from_bytes",
    "read_file",
    "to_safetensors",
    "to_sparse",
    "write_file",
]

MAX_BYTES = 2**30  # VGG-16, the largest network of rsas, takes 0.55e9

_MAGIC = b"\x89RSAS\r\n\x01"
_DIGEST = 32
_DIMENSIONS = 64  # as many as torch computes with
_LZMA_MEMORY = 2**24  # bytes; preset 6, which ``to_sparse`` uses, takes 9 MiB
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}

_Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Stored:
    """The content of a file, before its tensors are unpacked.

    Attributes:
        declared: by name, tensors of the dtypes and shapes of the file. Each takes the memory of
            one element.
        metadata: JSON values.
        unpack: returns the tensors, with the declared names, dtypes and shapes; raises
            ``InputError`` if the file is corrupt.
    """

    declared: dict[str, Tensor]
    metadata: dict[str, Any]
    unpack: Callable[[], dict[str, Tensor]]


def to_safetensors(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> bytes:
    """Return the content of a safetensors file."""
    from safetensors.torch import save

    own = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(metadata)
    content: bytes = save(own, {"rsas": text, "sha256": _digest(own, text)})
    return content


def to_sparse(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> bytes:
    """Return the content of a file in the sparse format.

    Raises:
        InputError: a tensor has a dtype that the format does not support, such as complex64.
    """
    entries: list[dict[str, Any]] = []
    sections: list[bytes] = []
    for name, tensor in tensors.items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in _DTYPES:
            raise InputError(f"format 'sparse': {name} is {dtype}; it holds {', '.join(_DTYPES)}")
        elements = _elements(tensor)
        is_on = elements.any(axis=1)
        bits = np.packbits(is_on)
        nonzero = elements[is_on]
        entry: dict[str, Any] = {"name": name, "dtype": dtype, "shape": list(tensor.shape)}
        entry["mask"] = None
        if len(bits) + nonzero.size < elements.size:
            codec, packed = _pack(bits.tobytes(), "lzma")
            entry["mask"] = [codec, len(packed)]
            sections.append(packed)
            elements = nonzero
        codec, packed = _pack(np.ascontiguousarray(elements.T).tobytes(), "zlib")
        entry["values"] = [codec, len(packed)]
        sections.append(packed)
        entries.append(entry)
    header = json.dumps({"metadata": metadata, "tensors": entries}).encode()
    content = b"".join([_MAGIC, len(header).to_bytes(4, "little"), header, *sections])
    return content + hashlib.sha256(content).digest()


def from_bytes(content: bytes, source: str, *, max_bytes: int = MAX_BYTES) -> Stored:
    """Read a file in either format, without unpacking its tensors.

    Args:
        content: of the file.
        source: name of the file, for messages.
        max_bytes: largest size of the unpacked tensors of a sparse file. The tensors of a
            safetensors file take no more than the file.

    Raises:
        InputError: the file has another format, is corrupt, or declares more than ``max_bytes``.
    """
    with _refusing(source):
        if content.startswith(_MAGIC):
            stored = _from_sparse(content, max_bytes)
        elif content[: len(_MAGIC) - 1] == _MAGIC[:-1]:
            raise InputError("written by a later version of rsas, or damaged")
        else:
            stored = _from_safetensors(content)

    def unpack() -> dict[str, Tensor]:
        with _refusing(source):
            return stored.unpack()

    return dataclasses.replace(stored, unpack=unpack)


@contextlib.contextmanager
def _refusing(source: str) -> Iterator[None]:
    """Turn errors into one line about the file."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    except Exception as error:  # by safetensors, json, zlib, lzma or numpy
        raise InputError(
            f"{source}: not a safetensors or sparse file of rsas, or damaged ({first_line(error)})"
        ) from None


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Return the content of a file.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{os.fspath(path)}: cannot be read ({error.strerror})") from None


def write_file(path: str | os.PathLike[str], content: bytes) -> None:
    """Write or replace a file at once: a reader sees the new content or the old one.

    Raises:
        InputError: the file cannot be written.
    """
    target = Path(path)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(target)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror})") from None
    finally:
        with contextlib.suppress(OSError):  # the file does not exist, or its folder does not
            partial.unlink()


def _from_safetensors(content: bytes) -> Stored:
    from safetensors.torch import load

    tensors: dict[str, Tensor] = load(content)
    length = int.from_bytes(content[:8], "little")
    texts = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    if _digest(tensors, texts["rsas"]) != texts["sha256"]:
        raise ValueError("its checksum is another")
    return Stored(tensors, _object(json.loads(texts["rsas"])), lambda: tensors)


def _from_sparse(content: bytes, max_bytes: int) -> Stored:
    body, digest = content[:-_DIGEST], content[-_DIGEST:]
    if hashlib.sha256(body).digest() != digest:
        raise ValueError("its checksum is another")
    start = len(_MAGIC) + 4
    at = start + int.from_bytes(body[len(_MAGIC) : start], "little")
    header = json.loads(body[start:at])
    entries: list[dict[str, Any]] = header["tensors"]
    shapes = [[int(size) for size in entry["shape"]] for entry in entries]
    dtypes = [_DTYPES[entry["dtype"]] for entry in entries]
    if any(len(shape) > _DIMENSIONS or min(shape, default=0) < 0 for shape in shapes):
        raise ValueError(f"a tensor has more than {_DIMENSIONS} dimensions, or a negative one")
    total = sum(
        math.prod(shape) * dtype.itemsize for shape, dtype in zip(shapes, dtypes, strict=True)
    )
    if total > max_bytes:
        raise InputError(
            f"its tensors take {total:,} bytes unpacked, more than max_bytes={max_bytes:,}"
        )
    declared = {
        entry["name"]: torch.zeros((), dtype=dtype).expand(shape)
        for entry, dtype, shape in zip(entries, dtypes, shapes, strict=True)
    }
    if len(declared) < len(entries):
        raise ValueError("two tensors have the same name")

    def unpack() -> dict[str, Tensor]:
        tensors, end = {}, at
        for entry, (name, like) in zip(entries, declared.items(), strict=True):
            tensors[name], end = _unpack(body, end, entry, like)
        if end != len(body):
            raise ValueError(f"{len(body) - end} bytes are left over")
        return tensors

    return Stored(declared, _object(header["metadata"]), unpack)


def _unpack(body: bytes, at: int, entry: dict[str, Any], like: Tensor) -> tuple[Tensor, int]:
    """Return a tensor with the dtype and shape of ``like``, and the end of its sections."""
    count, size = like.numel(), like.dtype.itemsize
    is_on = None
    stored = count
    if entry["mask"] is not None:
        packed, at = _section(body, at, entry["mask"], -(-count // 8))
        is_on = np.unpackbits(np.frombuffer(packed, np.uint8), count=count).astype(bool)
        stored = int(is_on.sum())
    packed, at = _section(body, at, entry["values"], stored * size)
    planes = np.frombuffer(packed, np.uint8).reshape(size, stored)
    elements = planes.T.copy()
    if is_on is not None:
        values = elements.reshape(-1).view(f"u{size}")
        spread = np.zeros(count, values.dtype)
        spread[is_on] = values
        elements = spread.view(np.uint8)
    return _tensor(elements, like.dtype, list(like.shape)), at


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("its metadata is no object")
    return value


def _digest(tensors: dict[str, Tensor], text: str) -> str:
    """Return the SHA-256 of the metadata's text, and of all tensors in the order of their names."""
    digest = hashlib.sha256(json.dumps(text).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(_elements(tensor).data)
    return digest.hexdigest()


def _elements(tensor: Tensor) -> _Bytes:
    """Return the bytes of the elements, shape (elements, bytes of one)."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    elements: _Bytes = flat.view(torch.uint8).numpy().reshape(len(flat), tensor.dtype.itemsize)
    return elements


def _tensor(elements: _Bytes, dtype: torch.dtype, shape: list[int]) -> Tensor:
    if not elements.size:
        return torch.empty(shape, dtype=dtype)
    return torch.from_numpy(elements.reshape(-1)).view(dtype).reshape(shape)


def _pack(content: bytes, codec: str) -> tuple[str, bytes]:
    packed = lzma.compress(content) if codec == "lzma" else zlib.compress(content)
    return (codec, packed) if len(packed) < len(content) else ("raw", content)


def _section(body: bytes, at: int, described: list[Any], expected: int) -> tuple[bytes, int]:
    """Return the bytes of a section, of the expected length, and the start of the next section."""
    codec, length = described
    end = at + int(length)
    content = body[at:end]
    if codec == "lzma":
        unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_LZMA_MEMORY)
        content = unpacker.decompress(content, max_length=expected + 1)
    elif codec == "zlib":
        content = zlib.decompressobj().decompress(content, expected + 1)
    elif codec != "raw":
        raise ValueError(f"unknown codec {codec!r}")
    if length < 0 or len(content) != expected:
        raise ValueError("a section has another size than its tensor")
    return content, end
