"""Training one network."""

import copy
import dataclasses
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn.utils import prune

import rsas
from rsas import (
    InputError,
    NonFiniteLoss,
    TrainConfig,
    Trainer,
    data,
    models,
    small_dense,
)
from rsas.sparse import PublishedPruning, Target

SMALL = TrainConfig(hidden=(40,), epochs=4, batch_size=50, momentum=0.9, lr=0.05, update_interval=7)


VARIANTS = {
    **{name: {"method": name} for name in ("dense", "small_dense", "static", "set", "rigl", "gmp")},
    "rigl, summed": {"method": "rigl", "grow_steps": 40},
    "noise": {"method": "noise"},
    "reinforced": {"credit": "global", "regrow": "zero", "reward_baseline": "mean"},
    "latent": {"credit": "global", "regrow": "latent", "exploration_draw": "uniform"},
    "per_weight": {"credit": "per_weight", "credit_steps": 3, "exploration_draw": "gradient"},
    "regrown": {"regrow": "gradient", "exploration_steps": 40},
    "loss_change": {"credit": "per_weight", "attribution": "loss_change", "credit_steps": 100},
    "paired": {"credit": "global", "paired": True},
    "reference": dataclasses.asdict(PublishedPruning()),
    "epoch clock": {"update_clock": "epoch", "lr_schedule": "cosine"},
    "recipe": {
        "accumulate": 2,
        "nesterov": True,
        "weight_decay": 0.01,
        "decay": "weights",
        "lr_schedule": "multi_step",
        "warmup": 0.3,
        "label_smoothing": 0.1,
        "clip_norm": 0.5,
        "first_mask": "snip",
        "update_interval": 4,
    },
    "ema": {"average": "ema", "method": "rigl"},
    "last": {"average": "last", "average_part": 0.6},
    "bfloat16": {"precision": "bfloat16", "distribution": "erk"},
}
OPTIMIZERS = {"sgd": {"momentum": 0.9}, "adam": {"optimizer": "adam", "lr": 0.003}}
RESUMED = [(name, optimizer) for name in VARIANTS for optimizer in OPTIMIZERS]


def resumable(name, optimizer):
    # A window of 10 does not divide an epoch's 27 steps, so epochs end in the middle of one.
    changes = {"update_interval": 10, "augment": "flip_crop", "hidden": (20,)}
    return SMALL.replace(**changes | OPTIMIZERS[optimizer] | VARIANTS[name])


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def run(config, arrays):
    trainer = Trainer(config, arrays)
    while trainer.epoch < config.epochs:
        trainer.run_epoch()
    return trainer


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def numbers(trainer):
    """The history without the time it took."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in trainer.history]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"exploration": "linear", "exploration_start": 0.4, "exploration_stop": 1.0},
            [0.3, 0.2, 0.1, 0.0],
        ),
        (
            {"method": "rigl", "drop_fraction": 0.4, "update_stop": 1.0},
            [0.2 * (1 + math.cos(math.pi * e / 4)) for e in (1, 2, 3)] + [0.0],
        ),
        ({"method": "gmp"}, [0.0] * 4),
        ({"method": "dense"}, [0.0] * 4),
    ],
)
def test_exploration_is_that_of_the_schedule(options, expected):
    config = SMALL.replace(epochs=4, **options)
    if config.method in ("reinforced", "rigl"):  # a redraw at the end of each epoch
        images = len(Trainer(config)._data.y_train)
        config = config.replace(update_interval=math.ceil(images / config.batch_size))
    found = rsas.train(config).history["exploration"]
    assert found.tolist() == pytest.approx(expected)


def test_result_of_a_run():
    rows = []
    result = rsas.train(
        SMALL.replace(epochs=12, sparsity=0.6, update_interval=60), on_epoch=rows.append
    )
    columns = ["epoch", "train_loss", "val_loss", "val_accuracy", "sparsity"]
    rest = ["sparsity/fc1", "sparsity/fc2", "churn", "exploration", "seconds"]
    assert list(result.history) == [*columns, *rest]
    assert result.history["epoch"].tolist() == list(range(1, 13))
    assert result.history.to_dict("records") == rows
    assert result.history["sparsity"].eq(0.6).all()
    assert result.history["train_loss"].iloc[-1] < result.history["train_loss"].iloc[0]
    assert prune.is_pruned(result.model)
    assert not result.model.training
    # The accuracy it claims is that of the model it returns.
    arrays = data.load("digits")
    predicted = result.model(torch.tensor(arrays.x_test)).argmax(1).numpy()
    assert result.test_accuracy == pytest.approx((predicted == arrays.y_test).mean())
    assert result.test_accuracy > 0.6


@pytest.mark.slow
@pytest.mark.parametrize(("name", "optimizer"), RESUMED)
def test_same_config_same_run(name, optimizer, digits):
    config = resumable(name, optimizer).replace(epochs=2)
    configs = (config, config, config.replace(seed=1))
    first, again, other = (run(config, digits) for config in configs)
    assert torch.equal(weights(first), weights(again))
    assert numbers(first) == numbers(again)
    assert not torch.equal(weights(first), weights(other))


def test_first_mask_is_independent_of_the_weights(digits):
    """The weights a random mask leaves on have mean 0 and the deviation of all."""
    trainer = Trainer(TrainConfig(sparsity=0.5, seed=0), digits)
    weight = trainer.model.fc1.weight.detach()
    on = weight[weight != 0]  # 32,000, uniform in [-1/8, 1/8]
    assert abs(on.mean().item()) < 4 * (0.125 / 3**0.5) / 32_000**0.5
    assert on.std().item() == pytest.approx(0.125 / 3**0.5, rel=0.02)


def test_a_run_leaves_torchs_generator_alone(digits):
    torch.manual_seed(11)
    before = torch.get_rng_state()
    run(SMALL.replace(epochs=1), digits)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "optimizer"), RESUMED)
def test_sparsity_0_is_dense_training_bit_for_bit(name, optimizer, digits):
    config = resumable(name, optimizer).replace(sparsity=0.0, epochs=2)
    dense = run(config.replace(method="dense"), digits)
    assert torch.equal(weights(run(config, digits)), weights(dense))


def test_sparsity_1_is_refused():
    """Nothing would be left to train."""
    with pytest.raises(InputError, match=r"sparsity=1: expected a number in \[0, 1\)"):
        SMALL.replace(sparsity=1)


def test_batches_are_the_same_for_every_method(digits):
    """Methods differ in their masks only, so differences between them are not batch noise."""
    seen = {}
    for method in ("dense", "static", "reinforced"):
        trainer = Trainer(SMALL.replace(method=method), digits)
        batches = seen.setdefault(method, [])
        trainer.model.register_forward_pre_hook(lambda _m, x, to=batches: to.append(x[0].sum()))
        trainer.run_epoch()
    assert len(seen["dense"]) > 10
    assert seen["dense"] == seen["static"] == seen["reinforced"]


def test_measure_lr_acts(digits):
    """In the default, masks follow from the rate; under accumulate they provably do not."""
    config = SMALL.replace(epochs=8, update_interval=5)
    states = {
        (update, rate): run(
            config.replace(measure_update=update, measure_lr=rate), digits
        ).final_state()
        for update in ("ema", "accumulate")
        for rate in (0.01, 0.37, 1.0)
    }
    masks = {key: state["masks"]["fc1"] for key, state in states.items()}
    assert not torch.equal(masks["ema", 0.01], masks["ema", 0.37])
    assert not torch.equal(masks["ema", 0.37], masks["ema", 1.0])
    # Not the masks alone, of which two can be alike by luck: rounding would change no rank here.
    accumulated = [states["accumulate", rate]["measures"]["fc1"] for rate in (0.01, 0.37, 1.0)]
    assert torch.equal(accumulated[0], accumulated[1])
    assert torch.equal(accumulated[1], accumulated[2])


def test_published_method_overshoots_and_ends_at_its_sparsity(digits):
    published = SMALL.replace(**dataclasses.asdict(PublishedPruning()), momentum=0.0, epochs=5)
    sparsity = [row["sparsity"] for row in run(published, digits).history]
    # algorithm.md, fault 2: the density of epoch e is about (1-s)(1 + s e/E).
    expected = [1 - 0.1 * (1 + 0.9 * e / 5) for e in range(4)]
    assert sparsity[:4] == pytest.approx(expected, abs=0.01)
    assert sparsity[4] == pytest.approx(0.9, abs=0.001)


CONTINUE = """
import json, sys, torch
from pathlib import Path
torch.set_num_threads(1)
from rsas import TrainConfig, Trainer, data
arrays, folder = data.load("digits"), Path(sys.argv[1])
for path in sorted(folder.glob("*.first")):
    config = TrainConfig.from_dict(json.loads(path.with_suffix(".json").read_text()))
    trainer = Trainer(config, arrays)
    trainer.load_state_dict(torch.load(path, weights_only=True))
    while trainer.epoch < config.epochs:
        trainer.run_epoch()
    torch.save(trainer.state_dict(), path.with_suffix(".last"))
"""


def plain(state):
    """Tensors as lists, so that whole states compare; times left out."""
    if isinstance(state, torch.Tensor):
        return state.tolist()
    if isinstance(state, dict):
        return {k: plain(v) for k, v in state.items() if k != "seconds"}
    return [plain(v) for v in state] if isinstance(state, (list, tuple)) else state


@pytest.fixture(scope="module")
def resumed(digits, tmp_path_factory):
    """Runs of all variants, undisturbed and stopped after each epoch and gone on elsewhere."""
    folder = tmp_path_factory.mktemp("resumed")
    whole = {}
    for name, optimizer in RESUMED:
        config = resumable(name, optimizer)
        trainer = Trainer(config, digits)
        while trainer.epoch < config.epochs:
            trainer.run_epoch()
            if trainer.epoch < config.epochs:
                path = folder / f"{name}-{optimizer}-{trainer.epoch}.json"
                path.write_text(json.dumps(config.to_dict()))
                torch.save(trainer.state_dict(), path.with_suffix(".first"))
        whole[name, optimizer] = plain(trainer.state_dict())
    subprocess.run([sys.executable, "-c", CONTINUE, folder], check=True)
    return whole, folder


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 2, 3])
@pytest.mark.parametrize(("name", "optimizer"), RESUMED)
def test_restored_in_a_new_process_it_equals_the_undisturbed_run(name, optimizer, stop, resumed):
    """Weights, masks, measures, optimizer, generators and history, bit for bit."""
    whole, folder = resumed
    last = torch.load(folder / f"{name}-{optimizer}-{stop}.last", weights_only=True)
    assert plain(last) == whole[name, optimizer]


def test_dropout_goes_on_from_its_own_generator(tmp_path, monkeypatch, digits):
    (tmp_path / "dropping.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        "    hidden = nn.Linear(64, 30)\n"
        "    return nn.Sequential(nn.Flatten(), hidden, nn.Dropout(), nn.Linear(30, 10))\n"
    )
    config = SMALL.replace(model=f"{tmp_path / 'dropping.py'}:net", epochs=2)
    whole = run(config, digits)
    first = Trainer(config, digits)
    first.run_epoch()
    torch.manual_seed(99)  # of somebody else, between the epochs
    first.run_epoch()
    assert torch.equal(weights(first), weights(whole))


def test_validation_is_in_eval_mode_without_gradients(tmp_path, digits):
    (tmp_path / "normed.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        "    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))\n"
    )
    trainer = Trainer(SMALL.replace(model=f"{tmp_path / 'normed.py'}:net"), digits)
    modes = []
    trainer.model.register_forward_hook(
        lambda module, _i, out: modes.append((module.training, out.requires_grad))
    )
    x, y = torch.tensor(digits.x_test), torch.tensor(digits.y_test)
    statistics = trainer.model[1].running_mean.clone()
    loss, accuracy = trainer.evaluate(x, y)
    assert set(modes) == {(False, False)}
    assert torch.equal(trainer.model[1].running_mean, statistics)
    # Means over all images, though they are evaluated in batches of unequal size.
    with torch.no_grad():
        outputs = trainer.model(x)
    assert loss == pytest.approx(torch.nn.functional.cross_entropy(outputs, y).item(), rel=1e-5)
    assert accuracy == pytest.approx((outputs.argmax(1) == y).float().mean().item())


def test_train_loss_is_the_mean_over_images(digits):
    """With a rate of almost 0 the network stays, and the mean can be computed apart."""
    trainer = Trainer(
        SMALL.replace(lr=1e-12, val_fraction=0.0, batch_size=64, method="static"), digits
    )
    row = trainer.run_epoch()
    loss, _ = trainer.evaluate(torch.tensor(digits.x_train), torch.tensor(digits.y_train))
    assert row["train_loss"] == pytest.approx(loss, rel=1e-4)
    assert np.isnan(row["val_accuracy"])


def test_the_optimizer_is_the_one_asked_for(digits):
    """An epoch of a linear model against torch's optimizer driven by hand."""
    base = SMALL.replace(method="dense", hidden=(), momentum=0.0, batch_size=1350, epochs=1)
    for changes, make in (
        ({"lr": 0.1}, lambda p: torch.optim.SGD(p, lr=0.1)),
        ({"momentum": 0.9, "epochs": 3}, lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9)),
        (
            {"momentum": 0.9, "nesterov": True, "epochs": 3},
            lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
        ),
        ({"nesterov": True}, lambda p: torch.optim.SGD(p, lr=0.05)),
        (
            {"optimizer": "adamw", "weight_decay": 0.5, "epochs": 3},
            lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.5),
        ),
        ({"weight_decay": 0.1}, lambda p: torch.optim.SGD(p, lr=0.05, weight_decay=0.1)),
        ({"optimizer": "adam", "lr": 0.01}, lambda p: torch.optim.Adam(p, lr=0.01)),
        (
            {"optimizer": "adam", "weight_decay": 0.5},
            lambda p: torch.optim.Adam(p, lr=0.05, weight_decay=0.5),
        ),
    ):
        config = base.replace(**changes)
        trainer = Trainer(config, digits)
        model = copy.deepcopy(trainer.model).train()
        x, y = trainer._data.x_train, trainer._data.y_train
        optimizer = make(model.parameters())
        for _ in range(config.epochs):
            trainer.run_epoch()
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        expected = torch.cat([p.detach().flatten() for p in model.parameters()])
        assert torch.allclose(weights(trainer), expected, atol=1e-5), changes


def test_validation_loss_that_is_lost_stops_the_run(tmp_path):
    """Trained on finite images, evaluated on one that is not."""
    np.savez(tmp_path / "x.npz", x_train=np.ones((40, 3)), y_train=np.arange(40) % 2)
    config = SMALL.replace(dataset=f"npz:{tmp_path / 'x.npz'}", method="dense", hidden=())
    trainer = Trainer(config)
    trainer._data.x_val[0] = torch.inf
    with pytest.raises(NonFiniteLoss, match="the validation loss became .* after epoch 1"):
        trainer.run_epoch()


NOISY = """
import torch
from torch import nn

class Net(nn.Sequential):
    def forward(self, x):
        self.seen.append(x.sum().item())
        return super().forward(x)

def net():
    layers = nn.Linear(64, 30), nn.BatchNorm1d(30), nn.Dropout(), nn.Linear(30, 10)
    model = Net(nn.Flatten(), *layers)
    model.seen = []
    return model

def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 30), nn.ReLU(), nn.Linear(30, 10))

def compiled():
    return torch.compile(plain(), backend="aot_eager")
"""


def test_paired_rewards_leave_no_trace_in_the_network(tmp_path, digits):
    """The second pass of a batch changes no statistics of BatchNorm and no dropout."""
    (tmp_path / "noisy.py").write_text(NOISY)
    # Without exploration the mask follows from V; with an interval this long it never changes.
    config = SMALL.replace(
        model=f"{tmp_path / 'noisy.py'}:net", update_interval=10**6, exploration_stop=1.0, epochs=1
    ).replace(credit="global")
    plain_run, paired = Trainer(config, digits), Trainer(config.replace(paired=True), digits)
    plain_run._sparsifier._redraw = paired._sparsifier._redraw = lambda *_: None
    plain_run.run_epoch(), paired.run_epoch()
    assert torch.equal(weights(plain_run), weights(paired))
    for ours, theirs in zip(plain_run.model.buffers(), paired.model.buffers(), strict=True):
        assert torch.equal(ours, theirs)
    # In training each batch is seen twice in a row, with the same inputs.
    seen = paired.model.seen[2 : 2 + 2 * 27]
    assert seen[::2] == seen[1::2] == plain_run.model.seen[2 : 2 + 27]


def test_paired_losses_drop_the_same_units(tmp_path, digits):
    """With a rate of almost 0 nothing changes between them, so both are the same."""
    (tmp_path / "noisy.py").write_text(NOISY)
    config = SMALL.replace(
        model=f"{tmp_path / 'noisy.py'}:net", lr=1e-12, epochs=1, credit="global", paired=True
    )
    trainer = Trainer(config, digits)
    trainer._sparsifier._redraw = lambda *_: None
    trainer.run_epoch()
    losses = torch.stack(trainer._sparsifier._learner._losses)
    assert len(losses) == 2 * round(0.75 * 27)  # until exploring stops
    assert torch.equal(losses[::2], losses[1::2])
    assert losses.unique().numel() > 10


def test_paired_rewards_are_what_one_step_changes(digits):
    """Of a linear model at a small rate: -lr * |g|^2 to first order, always a fall."""
    config = SMALL.replace(
        hidden=(), lr=1e-3, momentum=0.0, paired=True, credit="global", measure_update="accumulate",
        measure_lr=1.0, sparsity=0.0, epochs=1, update_interval=10**6, batch_size=1350,
    )  # fmt: skip
    trainer = Trainer(config, digits)
    before = weights(trainer)
    x, y = trainer._data.x_train, trainer._data.y_train
    first, _ = trainer.evaluate(x, y)
    trainer.run_epoch()
    rewards = trainer._sparsifier._layers[0].measure.unique().tolist()  # of all weights
    step = (weights(trainer) - before).norm().item()
    assert rewards == pytest.approx([first - trainer.evaluate(x, y)[0]], rel=1e-2)
    assert rewards == pytest.approx([step**2 / 1e-3], rel=2e-2)


def test_a_compiled_model_trains_like_the_plain_one(tmp_path, digits):
    (tmp_path / "noisy.py").write_text(NOISY)
    runs = [
        run(SMALL.replace(model=f"{tmp_path / 'noisy.py'}:{name}", epochs=2), digits)
        for name in ("compiled", "plain")
    ]
    assert torch.allclose(*(weights(trainer) for trainer in runs), atol=1e-5)
    results = [trainer.finish() for trainer in runs]
    assert prune.is_pruned(results[0].model)
    assert results[0].test_accuracy == pytest.approx(results[1].test_accuracy, abs=0.01)
    assert list(results[0].history) == list(results[1].history)


def test_bfloat16_computes_in_it_and_keeps_weights_in_float32(digits):
    config = SMALL.replace(precision="bfloat16", epochs=12, sparsity=0.5)
    trainer = Trainer(config, digits)
    kinds = set()
    trainer.model.fc1.register_forward_hook(lambda _m, _i, out: kinds.add(out.dtype))
    while trainer.epoch < config.epochs:
        trainer.run_epoch()
    assert kinds == {torch.bfloat16}
    assert weights(trainer).dtype == torch.float32
    assert trainer.history[-1]["sparsity"] == pytest.approx(0.5)
    result = trainer.finish()
    assert result.test_accuracy > 0.8
    exact = rsas.train(config.replace(precision="float32")).history
    assert result.history["train_loss"].iloc[0] != exact["train_loss"].iloc[0]
    assert result.history["train_loss"].iloc[0] == pytest.approx(
        exact["train_loss"].iloc[0], rel=0.1
    )


def test_the_paired_loss_of_a_step_is_computed_on_request_only(digits):
    trainer = Trainer(SMALL.replace(epochs=1), digits)
    calls = []
    trainer.model.register_forward_pre_hook(lambda m, _x: calls.append(m.training))
    trainer.run_epoch()
    assert sum(calls) == 27


def test_last_batch_of_one_image_is_left_out(tmp_path, digits):
    (tmp_path / "normed1.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        "    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))\n"
    )
    model = f"{tmp_path / 'normed1.py'}:net"
    trainer = Trainer(SMALL.replace(model=model, batch_size=19), digits)  # 1350 = 71 * 19 + 1
    assert np.isfinite(trainer.run_epoch()["train_loss"])


def test_a_model_without_weights_to_prune_is_refused(tmp_path, digits):
    (tmp_path / "bare.py").write_text(
        "from torch import nn\n"
        "def normed():\n    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64))\n"
        "def nothing():\n    return nn.Flatten()\n"
    )
    with pytest.raises(InputError, match="no weight for method 'reinforced'"):
        Trainer(SMALL.replace(model=f"{tmp_path / 'bare.py'}:normed"), digits)
    with pytest.raises(InputError, match="no parameters to train"):
        Trainer(SMALL.replace(model=f"{tmp_path / 'bare.py'}:nothing", method="dense"), digits)


def test_cosine_schedule_ends_at_0(digits):
    config = SMALL.replace(lr_schedule="cosine", epochs=3)
    trainer = run(config, digits)
    steps = 27  # 1350 training images in batches of 50
    expected = config.lr * (1 + np.cos(np.pi * (3 * steps - 1) / (3 * steps))) / 2
    assert trainer._optimizer.param_groups[0]["lr"] == pytest.approx(expected)


def test_non_finite_loss_stops_and_names_epoch_and_step(tmp_path):
    (tmp_path / "fragile.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Linear):\n"
        "    def forward(self, x):\n"
        "        return super().forward(x) / (x.amax(1, keepdim=True) < 100)\n"
        "def net():\n    return Net(4, 2)\n"
    )
    x = np.ones((100, 4))
    x[70] = 1000.0  # this image makes the loss infinite or NaN
    np.savez(tmp_path / "x.npz", x_train=x, y_train=np.arange(100) % 2)
    trainer = Trainer(
        SMALL.replace(
            dataset=f"npz:{tmp_path / 'x.npz'}",
            model=f"{tmp_path / 'fragile.py'}:net",
            batch_size=10,
            val_fraction=0.0,
            method="dense",
        )
    )
    fatal = []
    trainer.model.register_forward_pre_hook(lambda _m, x: fatal.append(bool((x[0] > 100).any())))
    with pytest.raises(NonFiniteLoss, match=r"became (nan|inf) in epoch 1") as caught:
        trainer.run_epoch()
    assert f"step {fatal.index(True) + 1} of 10" in str(caught.value)
    assert trainer.history == []


def test_no_test_split_no_test_accuracy(tmp_path):
    np.savez(tmp_path / "x.npz", x_train=np.random.rand(60, 5), y_train=np.arange(60) % 3)
    result = rsas.train(SMALL.replace(dataset=f"npz:{tmp_path / 'x.npz'}", epochs=1))
    assert result.test_accuracy is None


def test_images_of_bytes(images):
    config = SMALL.replace(dataset=images, epochs=15, sparsity=0.5, batch_size=20)
    assert rsas.train(config).test_accuracy > 0.8
    moved = rsas.train(config.replace(augment="flip_crop"))
    assert moved.history["train_loss"].notna().all()
    assert moved.history["train_loss"].iloc[0] != rsas.train(config).history["train_loss"].iloc[0]


AUXILIARY = """
from torch import nn

class Net(nn.Linear):
    def forward(self, x):
        y = super().forward(x.flatten(1))
        return (y, y) if self.training else y

def net():
    return Net(64, 10)
"""


def test_a_model_that_fails_in_train_mode_alone_is_told_before(tmp_path, digits):
    (tmp_path / "noisy.py").write_text(NOISY)
    (tmp_path / "auxiliary.py").write_text(AUXILIARY)
    noisy = SMALL.replace(model=f"{tmp_path / 'noisy.py'}:net")
    with pytest.raises(InputError, match="does not fit.*more than 1 value per channel"):
        Trainer(noisy.replace(batch_size=1), digits)
    with pytest.raises(InputError, match="does not fit.*'tuple' object has no attribute 'shape'"):
        Trainer(SMALL.replace(model=f"{tmp_path / 'auxiliary.py'}:net"), digits)
    # To look leaves no trace: statistics are those of a model that has seen nothing.
    norm = Trainer(noisy, digits).model[2]
    assert (norm.num_batches_tracked, norm.running_mean.any()) == (0, False)


def test_the_last_batch_of_one_image(digits):
    """Left out, as BatchNorm has no statistics of it; not so where all batches are of one."""
    few = dataclasses.replace(digits, x_train=digits.x_train[:21], y_train=digits.y_train[:21])
    for size, seen in ((10, 20), (1, 21), (7, 21)):
        trainer = Trainer(SMALL.replace(batch_size=size, val_fraction=0.0), few)
        images = []
        trainer.model.register_forward_pre_hook(lambda _, x, to=images: to.append(len(x[0])))
        trainer.run_epoch()
        assert sum(images) == seen


def test_a_run_without_an_epoch_has_an_empty_history(digits):
    assert Trainer(SMALL, digits).finish().history.empty


def test_model_that_does_not_fit_the_data(tmp_path, digits):
    (tmp_path / "short.py").write_text(
        "from torch import nn\n"
        "def narrow():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5))\n"
        "def other():\n    return nn.Linear(7, 10)\n"
    )
    with pytest.raises(InputError, match=r"does not fit 'digits'.*has shape \(2, 5\)"):
        Trainer(SMALL.replace(model=f"{tmp_path / 'short.py'}:narrow"), digits)
    with pytest.raises(InputError, match=r"does not fit 'digits', inputs of shape \(1, 8, 8\)"):
        Trainer(SMALL.replace(model=f"{tmp_path / 'short.py'}:other"), digits)


def test_missing_device():
    with pytest.raises(InputError, match="device='cuda:99': this machine has cpu"):
        Trainer(SMALL.replace(device="cuda:99"))
    for name in ("abacus", "meta"):
        with pytest.raises(InputError, match=f"device='{name}'"):
            Trainer(SMALL.replace(device=name))


@pytest.mark.parametrize("name", ["dense", "small_dense", "static", "reinforced", "latent"])
def test_final_state_is_the_network(name, digits, tmp_path):
    """A plain model built from it classifies as the trained one does, and is zero where it says."""
    trainer = run(resumable(name, "sgd").replace(epochs=1, sparsity=0.75), digits)
    torch.save(trainer.final_state(), tmp_path / "model.pt")
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    rest = {"config", "epoch", "input_shape", "num_classes"}
    assert set(state) == {"model", "masks", "measures"} | rest
    assert state["epoch"] == 1

    config = TrainConfig.from_dict(state["config"])
    assert config == trainer.config
    shapes = tuple(state["input_shape"]), state["num_classes"]
    assert shapes == ((1, 8, 8), 10)
    width = 1.0
    if name == "small_dense":
        width = small_dense.matching_width(config, Target(sparsity=0.75), *shapes)
    model = models.build(config, *shapes, width=width).eval()
    model.load_state_dict(state["model"])
    expected = run(config, digits).finish()
    x = torch.tensor(digits.x_test)
    assert torch.equal(model(x), expected.model(x))

    masks = state["masks"]
    assert set(masks) == (set() if name in ("dense", "small_dense") else {"fc1", "fc2"})
    for layer, mask in masks.items():
        weight = state["model"][f"{layer}.weight"]
        assert mask.dtype == torch.bool and mask.shape == weight.shape
        assert not weight[~mask].any() and weight[mask].any()
        assert (~mask).float().mean() == pytest.approx(trainer.history[-1][f"sparsity/{layer}"])

    learned = (
        trainer.state_dict()["sparsifier"]["layers"] if name in ("reinforced", "latent") else {}
    )
    assert set(state["measures"]) == set(learned)
    for layer, measure in state["measures"].items():
        assert torch.equal(measure, learned[layer]["measure"]) and measure.any()
