"""Data sets in every format, splits and augmentation."""

import dataclasses
import gzip
import pickle
import struct

import numpy as np
import pytest
import torch
from scipy.io import savemat

from rsas import InputError, TrainConfig
from rsas.data import default_data_dir, describe, load, split, to_input

CPU = torch.device("cpu")


def write_mnist(folder, rng, count=20):
    folder.mkdir(parents=True)
    expected = {}
    for part in ("train", "t10k"):
        x = rng.integers(0, 256, (count, 28, 28)).astype(np.uint8)
        y = (np.arange(count) % 10).astype(np.uint8)
        header = struct.pack(">iiii", 2051, count, 28, 28)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + x.tobytes())
        header = struct.pack(">ii", 2049, count)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(header + y.tobytes())
        expected[part] = (x[:, None], y)
    return expected["train"], expected["t10k"]


def write_svhn(root, rng, monkeypatch):
    expected = []
    for part in ("train", "test"):
        x = rng.integers(0, 256, (32, 32, 3, 12)).astype(np.uint8)
        y = np.arange(1, 13) % 10 + 1  # 10 stands for the digit 0
        savemat(root / f"{part}_32x32.mat", {"X": x, "y": y[:, None]})
        expected.append((x.transpose(3, 2, 0, 1), y % 10))
    monkeypatch.setattr("torchvision.datasets.SVHN._check_integrity", lambda self: True)
    return expected


def write_cifar(root, name, rng, monkeypatch):
    folder, parts, labels = {
        "cifar10": (
            "cifar-10-batches-py",
            ([f"data_batch_{i}" for i in range(1, 6)], ["test_batch"]),
            "labels",
        ),
        "cifar100": ("cifar-100-python", (["train"], ["test"]), "fine_labels"),
    }[name]
    (root / folder).mkdir()
    expected = []
    for files in parts:
        xs, ys = [], []
        for file in files:
            x = rng.integers(0, 256, (10, 3072)).astype(np.uint8)
            y = list(range(10))
            (root / folder / file).write_bytes(pickle.dumps({"data": x, labels: y}))
            xs.append(x.reshape(-1, 3, 32, 32))
            ys += y
        expected.append((np.concatenate(xs), np.array(ys)))
    names = {"label_names": list("abcdefghij"), "fine_label_names": list("abcdefghij")}
    meta = {"cifar10": "batches.meta", "cifar100": "meta"}[name]
    (root / folder / meta).write_bytes(pickle.dumps(names))
    # Files made here cannot have the checksums of the real ones.
    for where in ("cifar.CIFAR10._check_integrity", "cifar.check_integrity"):
        monkeypatch.setattr(f"torchvision.datasets.{where}", lambda *_: True)
    return expected


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "svhn", "cifar10", "cifar100"])
def test_files_in_torchvisions_layout(name, tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    if name in ("mnist", "fashion_mnist"):
        folder = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}[name]
        expected = write_mnist(tmp_path / folder / "raw", rng)
    elif name == "svhn":
        expected = write_svhn(tmp_path, rng, monkeypatch)
    else:
        expected = write_cifar(tmp_path, name, rng, monkeypatch)
    arrays = load(name, tmp_path)
    got = ((arrays.x_train, arrays.y_train), (arrays.x_test, arrays.y_test))
    for (x, y), (x_expected, y_expected) in zip(got, expected, strict=True):
        assert x.dtype == np.uint8
        assert y.dtype == np.int64
        assert np.array_equal(x, x_expected)
        assert np.array_equal(y, y_expected)
    assert arrays.num_classes == 10
    assert arrays.input_shape == ((1, 28, 28) if "mnist" in name else (3, 32, 32))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mnist", "MNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte"),
        ("svhn", "train_32x32.mat"),
        ("cifar100", "cifar-100-python/{train,test,meta}"),
    ],
)
def test_missing_files_without_internet(name, file, tmp_path, monkeypatch):
    def no_internet(*_, **__):
        raise OSError("unreachable")

    for name_of_call in ("_get_redirect_url", "_urlretrieve"):
        monkeypatch.setattr(f"torchvision.datasets.utils.{name_of_call}", no_internet)
    folder = tmp_path / "not" / "there"
    with pytest.raises(InputError) as caught:
        load(name, folder)
    assert str(folder / file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not folder.parent.exists()  # nothing half-made


def test_download_lands_in_the_data_folder(tmp_path, monkeypatch):
    made = write_mnist(tmp_path / "server", np.random.default_rng(1))

    def fetch(url, filename, **_):
        source = tmp_path / "server" / url.rpartition("/")[2].removesuffix(".gz")
        with gzip.open(filename, "wb") as file:
            file.write(source.read_bytes())

    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", lambda url, **_: url)
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", fetch)
    monkeypatch.setattr("torchvision.datasets.utils.check_md5", lambda *_, **__: True)
    arrays = load("mnist", tmp_path / "data")
    assert np.array_equal(arrays.x_train, made[0][0])
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["MNIST"]


def test_damaged_files_are_named(tmp_path):
    write_mnist(tmp_path / "MNIST" / "raw", np.random.default_rng(1))
    path = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match="dataset='mnist': corrupt files"):
        load("mnist", tmp_path)


def test_digits_are_the_rows_of_scikit_learn():
    from sklearn.datasets import load_digits

    arrays, bunch = load("digits"), load_digits()
    both = np.concatenate([arrays.x_train, arrays.x_test])
    assert np.array_equal(both.reshape(-1, 64), (bunch.data / 16).astype(np.float32))
    assert np.array_equal(np.concatenate([arrays.y_train, arrays.y_test]), bunch.target)
    assert len(arrays.y_train) == 1500


def save(path, **arrays):
    np.savez(path, **arrays)
    return f"npz:{path}"


def test_npz_of_images_and_of_floats(tmp_path):
    rng = np.random.default_rng(0)
    nhwc = rng.integers(0, 256, (6, 4, 5, 3)).astype(np.uint8)
    y = np.arange(6, dtype=np.int32)
    arrays = load(save(tmp_path / "a.npz", x_train=nhwc, y_train=y, x_test=nhwc[:2], y_test=y[:2]))
    assert np.array_equal(arrays.x_train, nhwc.transpose(0, 3, 1, 2))
    assert arrays.x_test.shape == (2, 3, 4, 5)
    gray = load(save(tmp_path / "b.npz", x_train=nhwc[..., 0], y_train=y))
    assert gray.x_train.shape == (6, 1, 4, 5)
    assert gray.x_test is None
    floats = rng.normal(size=(6, 7))
    table = load(save(tmp_path / "c.npz", x_train=floats, y_train=y))
    assert np.array_equal(table.x_train, floats.astype(np.float32))


X, Y = np.zeros((4, 2, 2), np.uint8), np.arange(4)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train": X}, "needs x_train and y_train, but holds x_train"),
        ({"x_train": X, "y_train": Y[:3]}, "4 inputs but 3 labels"),
        ({"x_train": X, "y_train": Y * 0.5}, "labels must be integers from 0.*float64"),
        ({"x_train": X, "y_train": Y - 1}, "labels must be integers from 0"),
        ({"x_train": X.astype(int), "y_train": Y}, "inputs must be uint8 images .* int64"),
        ({"x_train": np.array(3), "y_train": Y}, r"not int64 of shape \(\)"),
        ({"x_train": np.full((4, 2), np.nan), "y_train": Y}, "NaN or infinity"),
        ({"x_train": np.full((4, 2), 1e300), "y_train": Y}, "NaN or infinity in float32"),
        ({"x_train": X, "y_train": Y, "x_test": X}, "x_test and y_test come together"),
        (
            {"x_train": X, "y_train": Y, "x_test": X[:, :1], "y_test": Y},
            r"x_train holds \(1, 2, 2\) and x_test \(1, 1, 2\) inputs",
        ),
    ],
)
def test_npz_of_another_form_is_refused(arrays, message, tmp_path):
    with pytest.raises(InputError, match=message):
        load(save(tmp_path / "x.npz", **arrays))


def test_npz_is_looked_for_here_and_then_among_the_data(tmp_path, monkeypatch):
    here, among = tmp_path / "here", tmp_path / "data"
    for folder in (here, among):
        folder.mkdir()
        save(folder / "both.npz", x_train=X, y_train=Y if folder == here else Y[::-1])
    save(among / "one.npz", x_train=X, y_train=Y[::-1])
    monkeypatch.chdir(here)
    assert load("npz:both.npz", among).y_train.tolist() == Y.tolist()
    assert load("npz:one.npz", among).y_train.tolist() == Y[::-1].tolist()
    monkeypatch.setenv("RSAS_DATA_DIR", str(among))
    assert load("npz:one.npz").y_train.tolist() == Y[::-1].tolist()
    with pytest.raises(InputError, match=f"no such file, neither here nor in {among}$"):
        load("npz:none.npz")
    with pytest.raises(InputError, match="no such file$"):
        load(f"npz:{among / 'none.npz'}")


def test_npz_never_unpickles(tmp_path):
    name = save(tmp_path / "x.npz", x_train=np.array([{}, {}], dtype=object), y_train=Y[:2])
    with pytest.raises(InputError, match="not a readable .npz file of plain arrays"):
        load(name)
    np.save(tmp_path / "y.npy", X)
    with pytest.raises(InputError, match="not a readable .npz file"):
        load(f"npz:{tmp_path / 'y.npy'}")
    np.savez_compressed(tmp_path / "z.npz", x_train=np.arange(4000.0), y_train=Y)
    content = bytearray((tmp_path / "z.npz").read_bytes())
    content[60:90] = bytes(255 - byte for byte in content[60:90])
    (tmp_path / "z.npz").write_bytes(content)
    with pytest.raises(InputError, match="not a readable .npz file"):
        load(f"npz:{tmp_path / 'z.npz'}")
    (tmp_path / "y.npz").write_text("no zip file")
    with pytest.raises(InputError, match="not a readable .npz file"):
        load(f"npz:{tmp_path / 'y.npz'}")


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match="dataset='imagenet': expected one of digits, mnist"):
        load("imagenet")


def test_data_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("RSAS_DATA_DIR", str(tmp_path))
    assert default_data_dir() == tmp_path
    monkeypatch.delenv("RSAS_DATA_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert str(default_data_dir()) == "/caches/rsas"


def test_split_is_stratified_fixed_and_whole():
    arrays = load("digits")
    first = split(arrays, TrainConfig(val_fraction=0.2, seed=1), CPU)
    again = split(arrays, TrainConfig(val_fraction=0.2, seed=2), CPU)
    other = split(arrays, TrainConfig(val_fraction=0.2, split_seed=1), CPU)
    assert torch.equal(first.x_val, again.x_val)
    assert not torch.equal(first.x_val, other.x_val)
    assert len(first.y_val) == 300
    counts = torch.bincount(first.y_val, minlength=10)
    expected = torch.from_numpy(np.bincount(arrays.y_train)) * 0.2
    assert ((counts - expected).abs() < 1).all()
    # Together they are the training images, each once.
    both = torch.cat([first.x_train, first.x_val]).flatten(1).numpy()
    whole = arrays.x_train.reshape(1500, -1)
    assert np.array_equal(both[np.lexsort(both.T)], whole[np.lexsort(whole.T)])


def test_no_validation_split_on_request():
    parts = split(load("digits"), TrainConfig(val_fraction=0.0), CPU)
    assert (len(parts.y_train), len(parts.y_val)) == (1500, 0)


def test_too_few_images_for_a_split(tmp_path):
    arrays = load(save(tmp_path / "x.npz", x_train=X, y_train=Y))
    with pytest.raises(InputError, match="no stratified split of 4 images in 4 classes"):
        split(arrays, TrainConfig(val_fraction=0.5), CPU)


def test_input_is_scaled_and_normalised():
    x = torch.tensor([[[[0, 255]], [[51, 102]]]], dtype=torch.uint8)
    config = TrainConfig(mean=(0.5, 0.1), std=(0.5, 0.1))
    expected = torch.tensor([[[[-1.0, 1.0]], [[1.0, 3.0]]]])
    assert torch.allclose(to_input(x, config), expected)


def test_channels_are_counted():
    with pytest.raises(InputError, match=r"mean=\[0.1, 0.2\]: digits has 1 channels"):
        split(load("digits"), TrainConfig(mean=(0.1, 0.2)), CPU)


def test_padded_crops_shift_and_flip():
    """Every augmented image is one of the 2 x 9 x 9 that a flip and a shift can give."""
    config = TrainConfig(augment="flip_crop")
    x = torch.arange(1.0, 26.0).view(1, 1, 5, 5).expand(400, 1, 5, 5)
    y = to_input(x, config, torch.Generator().manual_seed(0))
    possible = {}
    for flip in (False, True):
        image = torch.nn.functional.pad(x[0].flip(2) if flip else x[0], (4,) * 4)
        for top in range(9):
            for left in range(9):
                window = image[:, top : top + 5, left : left + 5]
                possible[tuple(window.flatten().tolist())] = (flip, top, left)
    found = [possible[tuple(image.flatten().tolist())] for image in y]
    assert {flip for flip, _, _ in found} == {False, True}
    assert {top for _, top, _ in found} == set(range(9)) == {left for _, _, left in found}
    assert torch.equal(to_input(x, config), x)  # evaluation


def test_resized_crops_stay_inside_the_image():
    config = TrainConfig(augment="resized_crop_224")
    # The value of a pixel is its place, so a crop shows where it was taken from.
    ramp = torch.linspace(0, 1, 32)
    x = torch.stack([ramp.expand(32, 32), ramp[:, None].expand(32, 32)])[None].expand(
        300, 2, 32, 32
    )
    y = to_input(x, config, torch.Generator().manual_seed(0))
    assert y.shape == (300, 2, 224, 224)
    width = (y[:, 0, 0, -1] - y[:, 0, 0, 0]).abs()
    height = y[:, 1, -1, 0] - y[:, 1, 0, 0]
    assert (height > 0).all()  # flipped left to right only
    flipped = (y[:, 0, 0, 0] > y[:, 0, 0, -1]).float().mean()
    assert 0.4 < flipped < 0.6
    area = width * height
    assert 0.05 < area.min() < 0.15  # 8% of the area, less what lies between two pixels
    assert area.max() > 0.85
    assert to_input(x[:1], config).shape == (1, 2, 224, 224)


def test_augmentation_needs_images(tmp_path):
    arrays = load(save(tmp_path / "x.npz", x_train=np.zeros((40, 7)), y_train=np.arange(40) % 2))
    with pytest.raises(InputError, match="augment='flip_crop': needs images"):
        split(arrays, TrainConfig(augment="flip_crop"), CPU)


def test_a_description_changes_with_the_content(tmp_path):
    arrays = load("digits")
    found = describe("digits", arrays)
    assert found["train"] + found["test"] == 1797
    assert (found["input_shape"], found["num_classes"]) == ([1, 8, 8], 10)
    again = describe("other", load("digits"))
    assert again == found | {"name": "other"}
    for part in ("x_train", "y_train", "x_test", "y_test"):
        changed = getattr(arrays, part).copy()
        changed.flat[-1] = 1 - changed.flat[-1]
        other = dataclasses.replace(arrays, **{part: changed})
        assert describe("digits", other)["digest"] != found["digest"]
