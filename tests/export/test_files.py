"""The formats: bit for bit, documented, small, and damage is refused."""

import contextlib
import hashlib
import io
import json
import lzma
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import safetensors
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsas import InputError
from rsas.export.files import from_bytes, read_file, to_safetensors, to_sparse, write_file

FORMATS = {"safetensors": to_safetensors, "sparse": to_sparse}
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)


def bits(tensor):
    return tensor.contiguous().view(INTEGERS[tensor.dtype.itemsize])


def same(found, expected):
    return found.keys() == expected.keys() and all(
        found[name].dtype == tensor.dtype
        and found[name].shape == tensor.shape
        and torch.equal(bits(found[name]), bits(tensor))
        for name, tensor in expected.items()
    )


def read(content, **options):
    stored = from_bytes(content, "file", **options)
    return stored.unpack(), stored.metadata


def sparse_weights(shape, density, seed=0):
    generator = torch.Generator().manual_seed(seed)
    on = torch.rand(shape, generator=generator) < density
    return torch.where(on, torch.randn(shape, generator=generator), 0.0)


@pytest.fixture(scope="module")
def small():
    """Both kinds of section of every codec, odd sizes, and values that are easily lost."""
    weights = sparse_weights((13, 101), 0.1)
    weights[0, :4] = torch.tensor([-0.0, float("nan"), float("inf"), 1e-45])
    bits(weights)[0, 4] = 0x7F800001  # a signalling NaN with a payload
    return {
        "weight": weights,
        "half": weights.to(torch.bfloat16),
        "bias": torch.arange(5.0),
        "steps": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "off": torch.zeros(64, 64),
    }


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_written_is_read_bit_for_bit(form, small):
    tensors, metadata = read(FORMATS[form](small, {"a": [1, None, "ü"]}))
    assert same(tensors, small)
    assert metadata == {"a": [1, None, "ü"]}


@given(data=st.data())
def test_any_bits_of_any_type_come_back(data):
    dtype = data.draw(st.sampled_from(DTYPES))
    shape = data.draw(st.lists(st.integers(0, 6), max_size=3))
    count = int(np.prod(shape))
    byte = st.sampled_from([0, 1]) if dtype == torch.bool else st.integers(0, 255)
    element = st.just(bytes(dtype.itemsize)) | st.lists(
        byte, min_size=dtype.itemsize, max_size=dtype.itemsize
    ).map(bytes)
    raw = b"".join(data.draw(st.lists(element, min_size=count, max_size=count)))
    flat = torch.tensor(list(raw), dtype=torch.uint8)
    tensors = {"x": flat.view(dtype).reshape(shape) if count else torch.empty(shape, dtype=dtype)}
    for write in FORMATS.values():
        assert same(read(write(tensors, {}))[0], tensors)


def test_a_reader_made_of_the_documentation_alone(small):
    content = to_sparse(small, {"by": "rsas"})
    assert content[:8] == bytes.fromhex("89 52 53 41 53 0D 0A 01")
    assert hashlib.sha256(content[:-32]).digest() == content[-32:]
    (length,) = struct.unpack_from("<I", content, 8)
    header = json.loads(content[12 : 12 + length])
    assert header["metadata"] == {"by": "rsas"}
    masked = {entry["name"] for entry in header["tensors"] if entry["mask"] is not None}
    assert masked == {"weight", "half", "bias", "off"}  # where that takes less than all values
    at, codecs = 12 + length, set()
    for entry in header["tensors"]:
        sections = {}
        for which in ("mask", "values"):
            if entry[which] is not None:
                codec, size = entry[which]
                unpack = {"raw": bytes, "zlib": zlib.decompress, "lzma": lzma.decompress}[codec]
                sections[which] = unpack(content[at : at + size])
                codecs.add((which, codec))
                at += size
        expected = bits(small[entry["name"]]).reshape(-1).tolist()
        width = small[entry["name"]].dtype.itemsize
        stored = len(sections["values"]) // width
        values = [
            int.from_bytes(sections["values"][i::stored], "little", signed=width > 1)
            for i in range(stored)
        ]
        if "mask" in sections:
            rest = iter(values)
            mask = sections["mask"]
            values = [
                next(rest) if mask[i // 8] >> (7 - i % 8) & 1 else 0 for i in range(len(expected))
            ]
        assert values == expected
    assert at == len(content) - 32
    assert {which for which, _ in codecs} == {"mask", "values"}
    assert {codec for _, codec in codecs} == {"raw", "zlib", "lzma"}


def test_safetensors_are_read_by_others(small, tmp_path):
    write_file(tmp_path / "x.safetensors", to_safetensors(small, {"by": "rsas"}))
    with safetensors.safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert same({name: file.get_tensor(name) for name in file.keys()}, small)  # noqa: SIM118
        assert json.loads(file.metadata()["rsas"]) == {"by": "rsas"}


def test_tensors_that_share_memory_and_views(small):
    weight = small["weight"]
    tensors = {"a": weight, "b": weight, "c": weight.T, "d": weight[::2, 1::3]}
    for write in FORMATS.values():
        assert same(read(write(tensors, {}))[0], tensors)


@pytest.mark.parametrize(("density", "most"), [(0.1, 0.15), (0.01, 0.02), (1.0, 1.01)])
def test_size_beside_the_dense_file(density, most):
    tensors = {
        "fc1": sparse_weights((300, 784), density),
        "fc2": sparse_weights((10, 300), density),
    }
    tensors |= {"b1": torch.randn(300), "b2": torch.randn(10)}
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    dense = min(len(buffer.getvalue()), 4 * sum(tensor.numel() for tensor in tensors.values()))
    assert len(to_sparse(tensors, {})) <= most * dense


@pytest.mark.parametrize("form", FORMATS)
def test_no_bit_can_flip_and_no_byte_be_lost_unnoticed(form):
    """Every bit, every length: refused, or the same tensors and metadata."""
    tensors = {"w": sparse_weights((3, 40), 0.1), "b": torch.tensor([-0.0, 1.5])}
    content = FORMATS[form](tensors, {"seed": 1})
    refused = 0
    flips = (
        content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]
        for at in range(len(content))
        for bit in range(8)
    )
    for damaged in flips:
        try:
            found, metadata = read(damaged)
        except InputError as error:
            refused += "\n" not in str(error)
        else:
            assert same(found, tensors) and metadata == {"seed": 1}
    assert refused > 7.9 * len(content)  # but for the padding of a header
    for length in range(len(content)):
        with pytest.raises(InputError, match="^file: "):
            read(content[:length])
    with pytest.raises(InputError):
        read(content + b"\0")


@pytest.mark.parametrize("form", FORMATS)
@given(data=st.data())
def test_files_cut_and_patched_anywhere(form, data):
    tensors = {"w": sparse_weights((30, 40), 0.1)}
    content = FORMATS[form](tensors, {})
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(damaged[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])
    try:
        found, _ = read(damaged)
    except InputError:
        return
    assert same(found, tensors)


def forged(header, sections=b""):
    """A sparse file with a checksum that is right."""
    return sealed(json.dumps(header).encode(), sections)


def sealed(text, sections=b""):
    content = bytes.fromhex("8952534153 0D0A01") + struct.pack("<I", len(text)) + text + sections
    return content + hashlib.sha256(content).digest()


@pytest.fixture(scope="module")
def body(small):
    return to_sparse(small, {"seed": 1})[:-32]


@settings(max_examples=300)
@given(data=st.data())
def test_files_patched_by_one_who_mends_the_checksum(body, data):
    """Refused in a line, or tensors as they are declared."""
    patched = bytearray(body)
    for _ in range(data.draw(st.integers(1, 3))):
        where = data.draw(st.integers(8, len(body) - 1) | st.integers(8, 900))
        patched[where] = data.draw(st.sampled_from(b'0123456789-,[]{}"en') | st.integers(0, 255))
    with contextlib.suppress(InputError):
        stored = from_bytes(
            bytes(patched) + hashlib.sha256(patched).digest(), "file", max_bytes=2**20
        )
        found = stored.unpack()
        assert found.keys() == stored.declared.keys()
        for name, like in stored.declared.items():
            assert (found[name].dtype, found[name].shape) == (like.dtype, like.shape)


def entry(**changes):
    return {
        "name": "w",
        "dtype": "float32",
        "shape": [2],
        "mask": None,
        "values": ["raw", 8],
    } | changes


BOMB = zlib.compress(bytes(10**7))
# Right but for the memory that its reader would need, 32 MiB for 8 bytes.
FILTER = {"id": lzma.FILTER_LZMA2, "dict_size": 2**25, "mode": lzma.MODE_FAST, "mf": lzma.MF_HC3}
WIDE = lzma.compress(bytes(8), filters=[FILTER])


@pytest.mark.parametrize(
    ("entries", "sections"),
    [
        ([entry()], bytes(7)),
        ([entry()], bytes(9)),
        ([entry(shape=[-2])], bytes(8)),
        ([entry(shape=[-1, -2])], bytes(8)),
        ([entry(shape=[0, 2**63])], bytes(8)),
        ([entry(shape=[0] * 65)], bytes(8)),
        ([entry(shape=[2]), entry(shape=[2])], bytes(16)),
        ([entry(shape="x")], bytes(8)),
        ([entry(dtype="object")], bytes(8)),
        ([entry(values=["pickle", 8])], bytes(8)),
        ([entry(values=["raw", -8])], bytes(8)),
        ([entry(values=["zlib", len(BOMB)])], BOMB),
        ([entry(mask=["raw", 1])], bytes(9)),
        ([entry(mask=["raw", 2])], b"\xc0" + bytes(9)),
        (
            [entry(), entry(shape=[0], values=["raw", -4]), entry(shape=[1], values=["raw", 4])],
            bytes(8),
        ),
        ([entry(mask=["raw", 1], shape=[2**20])], bytes(9)),
        ([entry(values=["lzma", len(WIDE)])], WIDE),
        ([{"name": "w"}], bytes(8)),
        ({"w": 1}, b""),
        (None, b""),
    ],
)
def test_headers_that_lie_are_refused(entries, sections):
    with pytest.raises(InputError, match=r"^file: not a .* file of rsas, or damaged"):
        read(forged({"metadata": {}, "tensors": entries}, sections))


def test_the_forged_files_would_be_read_if_they_did_not_lie():
    content = forged({"metadata": {}, "tensors": [entry()]}, bytes(8))
    assert same(read(content)[0], {"w": torch.zeros(2)})
    with pytest.raises(InputError, match="metadata is no object"):
        read(forged({"metadata": [], "tensors": []}))


def test_a_bomb_is_not_blown_up(monkeypatch):
    """What comes out of a section is bounded by the size of its tensor."""
    sizes = []
    decompressobj = zlib.decompressobj

    class Watched:
        def decompress(self, content, limit):
            out = decompressobj().decompress(content, limit)
            sizes.append(len(out))
            return out

    monkeypatch.setattr(zlib, "decompressobj", Watched)
    with pytest.raises(InputError):
        read(forged({"metadata": {}, "tensors": [entry(values=["zlib", len(BOMB)])]}, BOMB))
    assert sizes == [9]


ZEROS = zlib.compress(bytes(2**24))


@contextlib.contextmanager
def memory_below(limit):
    """Of what Python and numpy allocate."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def test_more_than_the_limit_is_not_unpacked():
    half = entry(shape=[2**21], values=["zlib", len(ZEROS)])
    once = forged(
        {"metadata": {}, "tensors": [entry(shape=[2**22], values=["zlib", len(ZEROS)])]}, ZEROS
    )
    assert same(read(once, max_bytes=2**24)[0], {"w": torch.zeros(2**22)})
    twice = forged({"metadata": {}, "tensors": [half, half | {"name": "v"}]}, 2 * ZEROS)
    told = "^file: its tensors take 16,777,216 bytes unpacked, more than max_bytes=16,777,215$"
    for content in (once, twice):
        with memory_below(2**20), pytest.raises(InputError, match=told):
            read(content, max_bytes=2**24 - 1)


@pytest.mark.parametrize("shape", [[2**28 + 1], [2**62], [2**50, 2**50]])
def test_the_limit_without_being_asked_for(shape):
    """A GiB; nothing is unpacked to see that."""

    def content(shape):
        return forged({"metadata": {}, "tensors": [entry(shape=shape)]}, bytes(8))

    assert from_bytes(content([2**28]), "file").declared["w"].shape == (2**28,)
    with pytest.raises(InputError, match="more than max_bytes=1,073,741,824"):
        from_bytes(content(shape), "file")


def test_what_is_declared_takes_no_memory(small):
    stored = from_bytes(to_sparse(small, {}), "file")
    for name, tensor in stored.declared.items():
        assert (tensor.dtype, tensor.shape) == (small[name].dtype, small[name].shape)
        assert tensor.untyped_storage().nbytes() == tensor.dtype.itemsize


@pytest.mark.parametrize("text", ["[" * 10**5, '{"a":' * 10**5, "9" * 10**5])
def test_metadata_of_any_depth_and_length(text):
    """JSON on which Python's reader gives up; the checksums are right."""
    from safetensors.torch import save

    digest = hashlib.sha256(json.dumps(text).encode()).hexdigest()
    for content in (sealed(text.encode()), save({}, {"rsas": text, "sha256": digest})):
        with pytest.raises(InputError, match=r"^file: not a .* or damaged") as told:
            read(content)
        assert "\n" not in str(told.value)


def test_safetensors_that_share_bytes_are_refused():
    """So no such file stands for more than its size."""
    part = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    header = json.dumps({"a": part, "b": part}).encode()
    content = struct.pack("<Q", len(header)) + header + bytes(8)
    with pytest.raises(InputError, match="invalid offset for tensor"):
        read(content)


def test_pickles_and_other_files_are_refused():
    buffer = io.BytesIO()
    torch.save({"w": torch.zeros(2)}, buffer)
    for content in (buffer.getvalue(), b"", b"hello", bytes(100), b"\x89RSAS\r\n\x02" + bytes(99)):
        with pytest.raises(InputError, match="^file: "):
            read(content)
    from safetensors.torch import save

    with pytest.raises(InputError, match="not a safetensors or sparse file of rsas"):
        read(save({"w": torch.zeros(2)}))


def test_types_that_the_format_lacks():
    with pytest.raises(InputError, match="'sparse': w is complex64; it holds float64, "):
        to_sparse({"w": torch.zeros(2, dtype=torch.complex64)}, {})


def test_files_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "x.rsas"
    write_file(file, b"one")
    write_file(file, b"two")
    assert read_file(file) == b"two"

    def full(self, content):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(InputError, match="cannot be written .No space left"):
        write_file(file, b"three")
    assert [path.name for path in tmp_path.iterdir()] == ["x.rsas"]
    assert read_file(file) == b"two"
    with pytest.raises(InputError, match="cannot be read .No such file"):
        read_file(tmp_path / "none")
