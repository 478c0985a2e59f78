"""What is exported of a model, and how it is made again."""

import copy
import tracemalloc

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import rsas
from rsas import InputError, TrainConfig, Trainer, data, export, models
from rsas.export import Network, network_of

CONFIG = TrainConfig(hidden=(60,), epochs=1, batch_size=50, seed=3)
FORMATS = ("safetensors", "sparse")


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def run():
    return rsas.train(CONFIG)


def bits(model):
    return {
        name: tensor.contiguous().reshape(-1).view(torch.uint8).tolist()
        for name, tensor in model.state_dict().items()
    }


@pytest.mark.parametrize("form", FORMATS)
def test_a_run_comes_back_from_its_file(form, run, tmp_path):
    export.save(run, tmp_path / "x", format=form)
    loaded = export.load(tmp_path / "x")
    x = torch.randn(7, *run.input_shape)
    assert torch.equal(loaded(x), run.model(x))
    assert bits(loaded) == bits(network_of(run).model)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    weight = loaded.fc1.weight
    assert int((weight != 0).sum()) <= int(run.model.fc1.weight_mask.sum()) == round(0.1 * 3840)


def test_weights_that_are_off_are_plus_zero(run):
    network = network_of(run)
    off = run.model.fc1.weight_mask == 0
    assert not torch.signbit(network.model.fc1.weight[off]).any()
    assert torch.signbit(run.model.fc1.weight_orig[~off]).any()


def test_the_final_state_of_a_sweep_is_the_same_network(digits):
    trainer = Trainer(CONFIG, digits)
    trainer.run_epoch()
    network = Network.from_state(trainer.final_state(), CONFIG, sweep="first")
    finished = network_of(trainer.finish())
    assert bits(network.model) == bits(finished.model)
    assert network.metadata() == finished.metadata() | {"about": {"sweep": "first", "epoch": 1}}
    off = trainer.model.fc1.weight_mask == 0
    assert not torch.signbit(network.model.fc1.weight[off]).any()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "form"), [("mlp", "sparse"), ("resnet18", "safetensors"), ("vgg16", "sparse")]
)
def test_narrow_networks_get_their_widths_back(name, form, tmp_path, monkeypatch):
    config = TrainConfig(model=name, method="small_dense", sparsity=0.99)
    shape = (3, 32, 32)
    monkeypatch.setattr("rsas.small_dense.matching_width", lambda *_: 0.1)
    model = models.build(config, shape, 10, width=0.1).eval()
    state = {
        "config": config.to_dict(),
        "epoch": 1,
        "input_shape": list(shape),
        "num_classes": 10,
        "model": model.state_dict(),
        "masks": {},
    }
    export.save(Network.from_state(state, config), tmp_path / "x", format=form)
    # The width is in the file: to work it out would run a function that a file names.
    monkeypatch.setattr("rsas.small_dense.matching_width", None)
    loaded = export.load(tmp_path / "x")
    x = torch.randn(2, *shape)
    assert torch.equal(loaded(x), model(x))


def pruned(model, amount=0.5):
    for module in model:
        if isinstance(module, nn.Linear):
            prune.random_unstructured(module, "weight", amount)
    return model


def test_a_model_of_ones_own_is_left_as_it_is():
    model = pruned(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)))
    model[0].weight_orig.data[model[0].weight_mask == 0] = float("nan")
    model(torch.randn(3, 4)).sum()  # weights are computed with gradients now
    before = copy.deepcopy(dict(model.state_dict()))
    network = network_of(model)
    assert model.training and prune.is_pruned(model)
    assert before.keys() == model.state_dict().keys()
    assert not prune.is_pruned(network.model) and not network.model.training
    kept = model[0].weight_mask != 0
    assert torch.equal(network.model[0].weight[kept], before["0.weight_orig"][kept])
    assert (network.model[0].weight[~kept] == 0).all()


def test_compiled_models_are_exported_without_their_wrapper(tmp_path):
    model = nn.Sequential(nn.Linear(4, 2))
    export.save(torch.compile(model), tmp_path / "x", format="sparse")
    loaded = export.load(
        tmp_path / "x", builder=lambda: torch.compile(nn.Sequential(nn.Linear(4, 2)))
    )
    assert bits(loaded) == bits(model)


def test_bfloat16_and_shared_weights_stay_so(tmp_path):
    def build(num_classes=2):
        net = nn.Sequential(nn.Linear(num_classes, 2), nn.Linear(2, 2))
        net[1].weight = net[0].weight
        return net

    model = build().bfloat16()
    model[0].bias.data[0] = -0.0
    for form in FORMATS:
        export.save(model, tmp_path / "x", format=form)
        loaded = export.load(tmp_path / "x", builder=build)
        assert loaded[0].weight is loaded[1].weight
        assert loaded[0].weight.dtype == torch.bfloat16
        assert bits(loaded) == bits(model)


OWN = """
import pathlib
pathlib.Path({marker!r}).write_text("was run")
from torch import nn
def net(input_shape, num_classes, width_multiplier):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
"""


@pytest.mark.parametrize("form", FORMATS)
def test_loading_runs_no_code_that_the_file_names(form, digits, tmp_path):
    marker, source = tmp_path / "marker", tmp_path / "own_net.py"
    source.write_text(OWN.format(marker=str(marker)))
    trainer = Trainer(CONFIG.replace(model=f"{source}:net"), digits)
    export.save(
        Network.from_state(trainer.final_state(), trainer.config), tmp_path / "x", format=form
    )
    marker.unlink()
    with pytest.raises(
        InputError, match=r"code that a file names is not run; pass builder="
    ) as told:
        export.load(tmp_path / "x")
    assert "\n" not in str(told.value) and not marker.exists()

    def net(input_shape, num_classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))

    assert torch.equal(
        export.load(tmp_path / "x", builder=net)[1].weight, trainer.model[1].weight.detach()
    )
    assert not marker.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {"hidden": [70]}}, "does not fit its network: .*fc1.weight"),
        ({"config": {"hidden": [10**9, 10**9]}}, "does not fit its network"),
        ({"config": {"nothing": 1}}, "unknown field 'nothing'"),
        ({"config": {"model": "cats"}}, "model='cats': expected mlp"),
        ({"config": {"model": 3}}, "model=3: expected a text"),
        ({"config": None}, "its network is not one of rsas"),
        ({"config": "mlp"}, "does not fit its network"),
        ({"input_shape": None}, "names no input shape"),
        ({"input_shape": "abc"}, "does not fit its network"),
        ({"num_classes": -1}, "does not fit its network"),
        ({"width": "wide"}, "does not fit its network"),
        ({"width": float("inf")}, "does not fit its network"),
        ({"num_classes": 10**300}, "does not fit its network"),
        ({"input_shape": [10**300]}, "does not fit its network"),
        ({"config": {"hidden": [1] * 10**5}}, "100000 hidden layers, but 4 tensors"),
        ({"schema": 2}, "by another version of rsas"),
    ],
)
def test_metadata_that_does_not_fit_is_one_line(changes, message, run, tmp_path):
    from rsas.export.files import to_sparse, write_file

    network = network_of(run)
    metadata = network.metadata()
    if isinstance(changes.get("config"), dict):
        changes = {"config": metadata["config"] | changes["config"]}
    write_file(tmp_path / "x", to_sparse(network.model.state_dict(), metadata | changes))
    with pytest.raises(InputError, match=message) as told:
        export.load(tmp_path / "x")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("name", "builder"),
    [("other", None), ("fc1.bias", None), ("other", lambda: nn.Linear(64, 60))],
)
def test_tensors_that_the_network_lacks_are_not_unpacked(name, builder, run, tmp_path):
    """16 MiB of zeros, which take some bytes of the file."""
    from rsas.export.files import to_sparse, write_file

    network = network_of(run)
    state = network.model.state_dict() | {name: torch.zeros(2**22)}
    content = to_sparse(state, network.metadata())
    write_file(tmp_path / "x", content)
    assert len(content) < 2**15
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="does not fit its network"):
            export.load(tmp_path / "x", builder=builder)
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()


def test_a_limit_of_ones_own(run, tmp_path):
    export.save(run, tmp_path / "x", format="sparse")
    taken = sum(t.nbytes for t in network_of(run).model.state_dict().values())
    assert bits(export.load(tmp_path / "x", max_bytes=taken)) == bits(network_of(run).model)
    with pytest.raises(InputError, match=f"more than max_bytes={taken - 1:,}"):
        export.load(tmp_path / "x", max_bytes=taken - 1)


def test_builders_that_do_not_fit(run, tmp_path):
    export.save(run, tmp_path / "x", format="sparse")
    with pytest.raises(InputError, match="does not fit its network"):
        export.load(tmp_path / "x", builder=lambda: nn.Linear(2, 2))
    with pytest.raises(InputError, match="'builder': returned int"):
        export.load(tmp_path / "x", builder=lambda: 3)


def test_states_that_are_no_final_state(digits):
    state = Trainer(CONFIG, digits).final_state()
    with pytest.raises(InputError, match="a final model cannot be read"):
        Network.from_state({"epoch": 3}, CONFIG)
    state["model"].pop("fc1.weight")
    with pytest.raises(InputError, match="cannot be read: .*fc1.weight"):
        Network.from_state(state, CONFIG)


def test_unknown_formats_are_refused_before_anything_is_written(run, tmp_path):
    with pytest.raises(InputError, match="format 'pickle': expected one of safetensors, onnx, sp"):
        export.save(run, tmp_path / "x", format="pickle")
    assert list(tmp_path.iterdir()) == []


def test_random_numbers_of_others_are_left_alone(run, tmp_path, digits):
    export.save(run, tmp_path / "x", format="sparse")
    state = Trainer(CONFIG, digits).final_state()
    before = torch.get_rng_state()
    export.load(tmp_path / "x")
    Network.from_state(state, CONFIG)
    assert torch.equal(torch.get_rng_state(), before)
