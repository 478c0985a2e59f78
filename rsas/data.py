"""Read data sets by name, and split them into tensors on the training device.

The device holds the tensors of a whole data set. Batches are selected and augmented there, so
loader processes are not needed.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from rsas.config import TrainConfig
from rsas.errors import InputError, reason_of

__all__ = ["Arrays", "Splits", "default_data_dir", "describe", "load", "split", "to_input"]

_Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Arrays:
    """A data set as it was read.

    Inputs are uint8 images, shape (N, C, H, W), or float32 of any shape (N, ...); labels are
    int64 class numbers from 0, shape (N,). ``x_test`` and ``y_test`` are None without a test
    split.
    """

    x_train: _Array
    y_train: _Array
    x_test: _Array | None
    y_test: _Array | None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input, (C, H, W) for images."""
        return tuple(self.x_train.shape[1:])

    @property
    def num_classes(self) -> int:
        """Number of classes, one more than the largest label."""
        labels = [self.y_train] if self.y_test is None else [self.y_train, self.y_test]
        return int(max(y.max() for y in labels)) + 1


def describe(name: str, arrays: Arrays) -> dict[str, Any]:
    """Return the description of a data set as JSON types, for records.

    Returns:
        name; digest, the same for data sets with equal content; train and test, numbers of
        inputs; input_shape; and num_classes.
    """
    digest = hashlib.sha256()
    for part in (arrays.x_train, arrays.y_train, arrays.x_test, arrays.y_test):
        if part is not None:
            digest.update(f"{part.dtype}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).data)
    return {
        "name": name,
        "digest": digest.hexdigest()[:16],
        "train": len(arrays.y_train),
        "test": 0 if arrays.y_test is None else len(arrays.y_test),
        "input_shape": list(arrays.input_shape),
        "num_classes": arrays.num_classes,
    }


@dataclass(frozen=True)
class Splits:
    """Tensors on the training device; inputs as in ``Arrays``, labels int64."""

    x_train: Tensor
    y_train: Tensor
    x_val: Tensor
    y_val: Tensor
    x_test: Tensor | None
    y_test: Tensor | None


def default_data_dir() -> Path:
    """Return ``RSAS_DATA_DIR``, or ``rsas`` in the user's cache folder."""
    if named := os.environ.get("RSAS_DATA_DIR"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rsas"


def load(name: str, data_dir: str | os.PathLike[str] | None = None) -> Arrays:
    """Read a data set.

    Args:
        name: one of three kinds. ``digits`` are the 8x8 images of scikit-learn, rows 0-1499 to
            train and 1500-1796 to test. ``mnist``, ``fashion_mnist``, ``svhn``, ``cifar10`` and
            ``cifar100`` are in torchvision's layout under ``data_dir``; missing files are
            downloaded. ``npz:PATH`` is a NumPy file in the current folder or else in
            ``data_dir``. This file has ``x_train``, ``y_train`` and optionally ``x_test``,
            ``y_test``: uint8 images (N, H, W) or (N, H, W, C), or floats of any shape (N, ...).
        data_dir: by default ``default_data_dir()``.

    Raises:
        InputError: the name is unknown, or the files are missing, corrupt or of another form.
    """
    folder = (default_data_dir() if data_dir is None else Path(data_dir)).expanduser()
    kind, colon, file = name.partition(":")
    if kind == "npz" and colon:
        path = Path(file).expanduser()
        for candidate in (path, folder / path):
            if os.path.exists(candidate):  # also False for a name that is too long
                return _load_npz(candidate)
        searched = "" if path.is_absolute() else f", neither here nor in {folder}"
        raise InputError(f"dataset={name!r}: there is no such file{searched}")
    if name == "digits":
        return _load_digits()
    if name in _TORCHVISION:
        return _load_torchvision(name, folder)
    known = ", ".join(["digits", *_TORCHVISION])
    raise InputError(f"dataset={name!r}: expected one of {known}, or npz:PATH")


def split(arrays: Arrays, config: TrainConfig, device: torch.device) -> Splits:
    """Hold out the validation images and move everything to the device.

    The split depends on ``val_fraction`` and ``split_seed`` alone and is stratified by class.

    Raises:
        InputError: the data are too few for a stratified split, or do not fit the options.
    """
    _check_channels(arrays, config)
    n = len(arrays.y_train)
    train, val = np.arange(n), np.arange(0)
    if config.val_fraction > 0:
        from sklearn.model_selection import train_test_split

        try:
            train, val = train_test_split(
                np.arange(n),
                test_size=config.val_fraction,
                random_state=config.split_seed,
                stratify=arrays.y_train,
            )
        except ValueError as error:
            raise InputError(
                f"val_fraction={config.val_fraction:g}: no stratified split of {n} images in "
                f"{arrays.num_classes} classes ({str(error).rstrip('.')})"
            ) from None
    x, y = _tensor(arrays.x_train), _tensor(arrays.y_train)

    def part(rows: _Array) -> tuple[Tensor, Tensor]:
        index = torch.from_numpy(np.sort(rows))
        return x[index].to(device), y[index].to(device)

    test: tuple[Tensor, Tensor] | tuple[None, None] = (None, None)
    if arrays.x_test is not None and arrays.y_test is not None:
        test = (_tensor(arrays.x_test).to(device), _tensor(arrays.y_test).to(device))
    return Splits(*part(train), *part(val), *test)


def to_input(x: Tensor, config: TrainConfig, generator: torch.Generator | None = None) -> Tensor:
    """Return the model's input: floats, augmented and normalised, on the device of ``x``.

    Args:
        x: a batch as in ``Arrays``; bytes become floats in [0, 1].
        config: ``augment``, ``mean`` and ``std`` are used.
        generator: source of the random crops and flips. For evaluation there is none, and random
            changes are left out.

    Returns:
        Floats of the shape of ``x``, or (B, C, 224, 224) for ``resized_crop_224``.
    """
    if x.dtype == torch.uint8:
        x = x.float() / 255
    if config.augment == "resized_crop_224":
        if generator is None:
            x = F.interpolate(x, size=224, mode="bilinear", align_corners=False)
        else:
            x = _resized_crop(x, 224, generator)
    elif config.augment == "flip_crop" and generator is not None:
        x = _padded_crop(_flip(x, generator), 4, generator)
    shape = (1, -1) + (1,) * (x.dim() - 2)
    if config.mean:
        x = x - _on_device(config.mean, x.dtype, x.device).view(shape)
    if config.std:
        x = x / _on_device(config.std, x.dtype, x.device).view(shape)
    return x


@functools.lru_cache(maxsize=16)
def _on_device(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a tensor on the device; copied there once, since the host waits for each copy."""
    return torch.tensor(values, dtype=dtype, device=device)


def _flip(x: Tensor, generator: torch.Generator) -> Tensor:
    heads = torch.rand(len(x), 1, 1, 1, generator=generator, device=x.device) < 0.5
    return torch.where(heads, x.flip(3), x)


def _padded_crop(x: Tensor, pad: int, generator: torch.Generator) -> Tensor:
    """Return each image shifted by up to ``pad`` pixels in both directions, filled with zeros."""
    batch, _, height, width = x.shape
    padded = F.pad(x, (pad,) * 4)
    shift = torch.randint(0, 2 * pad + 1, (2, batch, 1), generator=generator, device=x.device)
    rows = shift[0] + torch.arange(height, device=x.device)
    columns = shift[1] + torch.arange(width, device=x.device)
    image = torch.arange(batch, device=x.device).view(-1, 1, 1)
    # Indices around a slice put the channels last.
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _resized_crop(x: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Return Inception-style crops (Szegedy et al. 2015).

    A crop has 8-100% of the area, an aspect of 3/4-4/3, and a random flip. A crop is a window of
    the unit square, so all images of the batch are sampled at once. A side longer than the image is
    cut to the image; torchvision draws again instead.
    """
    batch = len(x)
    u = torch.rand(5, batch, generator=generator, device=x.device)
    area = 0.08 + 0.92 * u[0]
    aspect = torch.exp((2 * u[1] - 1) * float(np.log(4 / 3)))
    width = (area * aspect).sqrt().clamp(max=1)
    height = (area / aspect).sqrt().clamp(max=1)
    # Centres in [-1, 1] coordinates, so that the window stays inside.
    x0 = (2 * u[2] - 1) * (1 - width)
    y0 = (2 * u[3] - 1) * (1 - height)
    flip = torch.where(u[4] < 0.5, -1.0, 1.0)
    zero = torch.zeros_like(width)
    theta = torch.stack([width * flip, zero, x0, zero, height, y0], 1).view(batch, 2, 3)
    grid = F.affine_grid(theta, [batch, x.shape[1], size, size], align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _check_channels(arrays: Arrays, config: TrainConfig) -> None:
    shape = arrays.input_shape
    for name in ("mean", "std"):
        values = getattr(config, name)
        if values and len(values) not in (1, shape[0]):
            raise InputError(f"{name}={list(values)}: {config.dataset} has {shape[0]} channels")
    if config.augment != "none" and len(shape) != 3:
        raise InputError(
            f"augment={config.augment!r}: needs images (C, H, W), but an input of "
            f"{config.dataset} has shape {shape}"
        )


def _tensor(array: _Array) -> Tensor:
    with warnings.catch_warnings():
        # Arrays from Ray's object store are read-only, and rsas does not write to them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def _load_digits() -> Arrays:
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = (digits.images / 16).astype(np.float32)[:, None]
    y = digits.target.astype(np.int64)
    return Arrays(x[:1500], y[:1500], x[1500:], y[1500:])


def _load_npz(path: Path) -> Arrays:
    where = f"dataset='npz:{path}'"
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"{where}: not a readable .npz file of plain arrays ({type(error).__name__})"
        ) from None
    if not {"x_train", "y_train"} <= arrays.keys():
        raise InputError(f"{where}: needs x_train and y_train, but holds {', '.join(arrays)}")
    if ("x_test" in arrays) != ("y_test" in arrays):
        raise InputError(f"{where}: x_test and y_test come together or not at all")
    parts = {"train": _checked(arrays["x_train"], arrays["y_train"], f"{where}, train")}
    if "x_test" in arrays:
        parts["test"] = _checked(arrays["x_test"], arrays["y_test"], f"{where}, test")
        shapes = parts["train"][0].shape[1:], parts["test"][0].shape[1:]
        if shapes[0] != shapes[1]:
            raise InputError(f"{where}: x_train holds {shapes[0]} and x_test {shapes[1]} inputs")
    return Arrays(*parts["train"], *parts.get("test", (None, None)))


def _checked(x: _Array, y: _Array, where: str) -> tuple[_Array, _Array]:
    if y.ndim != 1 or y.dtype.kind not in "iu" or len(y) == 0 or y.min() < 0:
        raise InputError(f"{where}: labels must be integers from 0, shape (N,), not {_form(y)}")
    if x.ndim > 0 and len(x) != len(y):
        raise InputError(f"{where}: {len(x)} inputs but {len(y)} labels")
    if x.dtype == np.uint8 and x.ndim in (3, 4):
        x = x[:, None] if x.ndim == 3 else np.moveaxis(x, 3, 1)
        return np.ascontiguousarray(x), y.astype(np.int64)
    if x.dtype.kind == "f" and x.ndim >= 2:
        with np.errstate(over="ignore"):
            x = x.astype(np.float32)
        if not np.isfinite(x).all():
            raise InputError(f"{where}: inputs hold NaN or infinity in float32")
        return x, y.astype(np.int64)
    raise InputError(
        f"{where}: inputs must be uint8 images (N, H, W) or (N, H, W, C), or floats (N, ...), "
        f"not {_form(x)}"
    )


def _form(array: _Array) -> str:
    return f"{array.dtype} of shape {array.shape}"


# Name -> torchvision class, and the files that the class reads, under the data folder.
_TORCHVISION: dict[str, tuple[str, tuple[str, ...]]] = {
    "mnist": ("MNIST", ("MNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte",)),
    "fashion_mnist": (
        "FashionMNIST",
        ("FashionMNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte",),
    ),
    "svhn": ("SVHN", ("train_32x32.mat", "test_32x32.mat")),
    "cifar10": ("CIFAR10", ("cifar-10-batches-py/{data_batch_1..5,test_batch,batches.meta}",)),
    "cifar100": ("CIFAR100", ("cifar-100-python/{train,test,meta}",)),
}


def _load_torchvision(name: str, folder: Path) -> Arrays:
    from torchvision import datasets

    class_name, files = _TORCHVISION[name]
    make = getattr(datasets, class_name)

    def read(root: Path, *, download: bool) -> list[Any]:
        if name == "svhn":
            return [make(root, split=part, download=download) for part in ("train", "test")]
        return [make(root, train=part, download=download) for part in (True, False)]

    expected = ", ".join(str(folder / file) for file in files)
    try:
        parts = read(folder, download=False)
    except Exception as error:
        # torchvision's message on files that are missing, or that fail their checksum.
        if "not found" not in str(error):
            reason = reason_of(error)
            raise InputError(
                f"dataset={name!r}: corrupt files ({reason}); expected {expected}"
            ) from error
        try:
            with _staging(folder) as stage:
                read(stage, download=True)
        except (OSError, RuntimeError) as offline:
            raise InputError(
                f"dataset={name!r}: not found and not downloadable from here; expected "
                f"{expected} (--data-dir or RSAS_DATA_DIR names another folder)"
            ) from offline
        parts = read(folder, download=False)
    (x_train, y_train), (x_test, y_test) = (_images(part) for part in parts)
    return Arrays(x_train, y_train, x_test, y_test)


def _images(dataset: Any) -> tuple[_Array, _Array]:
    """Return uint8 images (N, C, H, W) and int64 labels (N,) of one of torchvision's data sets."""
    x = np.asarray(dataset.data)
    if x.ndim == 3:
        x = x[:, None]
    elif x.shape[3] == 3:  # CIFAR is channels-last, SVHN channels-first
        x = np.moveaxis(x, 3, 1)
    labels = dataset.labels if hasattr(dataset, "labels") else dataset.targets
    return np.ascontiguousarray(x), np.asarray(labels).astype(np.int64)


@contextlib.contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """Yield a folder for a download; its content is copied into ``folder`` at the end.

    A download that fails or is interrupted leaves no files.
    """
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=".download-", dir=folder))
    try:
        yield stage
        shutil.copytree(stage, folder, dirs_exist_ok=True)
    finally:
        shutil.rmtree(stage)
        for path in created:
            with contextlib.suppress(OSError):  # not empty after a complete download
                path.rmdir()
