"""Training recipes: rates, clipping, accumulation, averages, against torch and loops by hand."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune
from torch.optim import lr_scheduler

from rsas import InputError, TrainConfig, Trainer, data
from rsas.lr import rate
from rsas.sparse import Sparsifier, StaticPruning, Target

SMALL = TrainConfig(hidden=(40,), epochs=2, batch_size=50, momentum=0.9, lr=0.05, update_interval=7)


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


STEPS, WARM = 40, 8
SCHEDULERS = {
    "constant": lambda o: lr_scheduler.ConstantLR(o, 1.0),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS),
    "multi_step": lambda o: lr_scheduler.MultiStepLR(o, [20, 30], 0.1),
    "warm-up": lambda o: lr_scheduler.LinearLR(o, 1 / (WARM + 1), total_iters=WARM),
    "warm-up, cosine": lambda o: lr_scheduler.SequentialLR(
        o,
        [
            lr_scheduler.LinearLR(o, 1 / (WARM + 1), total_iters=WARM),
            lr_scheduler.CosineAnnealingLR(o, STEPS - WARM),
        ],
        [WARM],
    ),
    "warm-up, multi_step": lambda o: lr_scheduler.ChainedScheduler(
        [
            lr_scheduler.LinearLR(o, 1 / (WARM + 1), total_iters=WARM),
            lr_scheduler.MultiStepLR(o, [4, 12, 36], 0.5),
        ]
    ),
}
RATES = {
    "constant": {},
    "cosine": {"lr_schedule": "cosine"},
    "multi_step": {"lr_schedule": "multi_step"},
    "warm-up": {"warmup": 0.2},
    "warm-up, cosine": {"warmup": 0.2, "lr_schedule": "cosine"},
    "warm-up, multi_step": {
        "warmup": 0.2,
        "lr_schedule": "multi_step",
        "milestones": (0.1, 0.3, 0.9),
        "gamma": 0.5,
    },
}


@pytest.mark.parametrize("name", RATES)
@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step")
def test_rates_are_those_of_torchs_schedulers(name):
    config = TrainConfig(lr=0.3, **RATES[name])
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler = SCHEDULERS[name](optimizer)
    for step in range(STEPS):
        assert rate(config, step, STEPS) == pytest.approx(optimizer.param_groups[0]["lr"]), step
        optimizer.step()
        scheduler.step()


def test_the_optimizer_has_the_rate_of_its_step(digits):
    """Seen at each step: 2 epochs of 27 steps, of which the first 11 are the warm-up."""
    config = SMALL.replace(lr_schedule="cosine", warmup=0.2, decay="weights", weight_decay=0.1)
    trainer, seen = Trainer(config, digits), []
    trainer._optimizer.register_step_pre_hook(
        lambda optimizer, *_: seen.append([group["lr"] for group in optimizer.param_groups])
    )
    for _ in range(2):
        trainer.run_epoch()
    assert seen == [[rate(config, step, 54)] * 2 for step in range(54)]
    assert seen[0][0] == pytest.approx(0.05 / 12)


def test_weight_decay_of_weights_alone(digits):
    """An epoch against torch's optimizer with biases in a group of their own."""
    config = SMALL.replace(
        method="dense", weight_decay=0.5, decay="weights", batch_size=1350, epochs=3
    )
    trainer = Trainer(config, digits)
    twin = copy.deepcopy(trainer.model)
    named = dict(twin.named_parameters())
    biases = [p for name, p in named.items() if name.endswith("bias")]
    kernels = [p for name, p in named.items() if name.endswith("weight")]
    assert len(biases) == len(kernels) == 2
    optimizer = torch.optim.SGD(
        [{"params": kernels, "weight_decay": 0.5}, {"params": biases}], lr=0.05, momentum=0.9
    )
    for _ in range(3):
        trainer.run_epoch()
        optimizer.zero_grad()
        F.cross_entropy(twin(trainer._data.x_train), trainer._data.y_train).backward()
        optimizer.step()
    expected = torch.cat([p.detach().flatten() for p in twin.parameters()])
    assert torch.allclose(weights(trainer), expected, atol=1e-6)
    everything = weights(run(config.replace(decay="all"), digits))
    assert not torch.allclose(everything, expected, atol=1e-4)


def test_label_smoothing_of_the_training_loss_alone(digits):
    """With a rate of almost 0 both losses are those of one network: Szegedy et al. 2016, sec. 7."""
    config = SMALL.replace(lr=1e-12, momentum=0.0, label_smoothing=0.3, batch_size=1350)
    trainer = Trainer(config, digits)
    row = trainer.run_epoch()
    with torch.no_grad():
        log_p = trainer.model(trainer._data.x_train).log_softmax(1)
    target = 0.7 * F.one_hot(trainer._data.y_train, 10) + 0.3 / 10
    assert row["train_loss"] == pytest.approx(-(target * log_p).sum(1).mean().item(), rel=1e-5)
    with torch.no_grad():
        outputs = trainer.model(trainer._data.x_val)
    plain = F.cross_entropy(outputs, trainer._data.y_val).item()
    assert row["val_loss"] == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize("clip_norm", [0.05, 100.0])
def test_gradients_are_clipped_as_those_of_a_pruned_network(clip_norm, digits):
    """The oracle is torch's clipping of a network with masks of torch.nn.utils.prune."""
    config = SMALL.replace(
        method="static", clip_norm=clip_norm, batch_size=1350, epochs=4, momentum=0.0, sparsity=0.8
    )
    trainer = Trainer(config, digits)
    twin = copy.deepcopy(trainer.model)
    masks = trainer._sparsifier.masks()
    for layer, mask in zip((twin.fc1, twin.fc2), masks, strict=True):
        prune.custom_from_mask(layer, "weight", mask)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.05)
    for _ in range(4):
        trainer.run_epoch()
        optimizer.zero_grad()
        F.cross_entropy(twin(trainer._data.x_train), trainer._data.y_train).backward()
        norm = nn.utils.clip_grad_norm_(twin.parameters(), clip_norm)
        assert (norm > clip_norm) == (clip_norm < 1)
        optimizer.step()
    for mine, theirs in ((trainer.model.fc1, twin.fc1), (trainer.model.fc2, twin.fc2)):
        assert torch.allclose(mine.weight, theirs.weight_orig * theirs.weight_mask, atol=1e-6)


def test_methods_observe_clipped_gradients(digits):
    """So the gathered gradients are those that the optimizer follows."""
    config = SMALL.replace(
        method="rigl", grow_steps=50, clip_norm=0.01, epochs=1, batch_size=1350, update_interval=50
    )
    trainer = Trainer(config.replace(epochs=100), digits)
    trainer.run_epoch()
    (window, _) = [layer.window for layer in trainer._sparsifier._layers]
    assert torch.equal(window, trainer.model.fc1.weight.grad)
    assert trainer._sparsifier.gradient_norm().item() == pytest.approx(0.01, rel=1e-3)


def test_the_norm_of_rows_that_are_pruned():
    """Three layers of attention share a parameter, of which one is pruned."""
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2)
    optimizer = torch.optim.SGD(attention.parameters(), lr=0.1)
    sparsifier = Sparsifier(
        attention,
        optimizer,
        StaticPruning(),
        Target(sparsity=0.5, include=("k_proj",)),
        generator=torch.Generator().manual_seed(1),
    )
    assert sparsifier.gradient_norm() == 0
    x = torch.randn(5, 3, 8)
    attention(x, x, x)[0].square().sum().backward()
    before = attention.in_proj_weight.grad.clone()
    (mask,) = sparsifier.masks()
    on = torch.ones(24, 8)
    on[8:16] = mask.float()
    others = [p.grad for name, p in attention.named_parameters() if name != "in_proj_weight"]
    squares = [g.square().sum() for g in (before * on, *others)]
    assert sparsifier.gradient_norm().item() == pytest.approx(sum(squares).sqrt().item(), rel=1e-6)
    assert torch.equal(attention.in_proj_weight.grad, before)


@pytest.mark.parametrize(
    "options",
    [
        {"method": "static"},
        {"method": "rigl"},
        {"credit": "global", "paired": True, "measure_lr": 0.25, "clip_norm": 0.5},
    ],
)
def test_accumulated_batches_equal_one_of_the_joined_size(options, digits):
    """1350 images: 8 steps of 160 and one of 70, which as batches of 40 are 40 and 30."""
    config = SMALL.replace(batch_size=160, epochs=3, update_interval=4, **options)
    joined = run(config, digits)
    split = run(config.replace(batch_size=40, accumulate=4), digits)
    assert torch.allclose(weights(split), weights(joined), atol=1e-5)
    for mine, theirs in zip(split._sparsifier.masks(), joined._sparsifier.masks(), strict=True):
        assert torch.equal(mine, theirs)
    assert split._sparsifier.steps == joined._sparsifier.steps == 27
    for name in ("train_loss", "val_loss", "churn"):
        found = [row[name] for row in split.history]
        assert found == pytest.approx([row[name] for row in joined.history], rel=1e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"milestones": (0.5, 1.0)}, r"milestones=\[0.5, 1.0\]: every share of the training must"),
        ({"warmup": 1.0}, r"warmup=1.0: expected a number in \[0, 1\)"),
        ({"gamma": 0}, r"gamma=0: expected a number in \(0, 1\]"),
        ({"accumulate": 0}, r"accumulate=0: expected an integer in \[1, "),
        ({"clip_norm": -1}, r"clip_norm=-1: expected a number in \[0, "),
        ({"label_smoothing": 2}, r"label_smoothing=2: expected a number in \[0, 1\]"),
        ({"decay": "none"}, r"decay='none': expected one of all, weights"),
        ({"optimizer": "lion"}, r"optimizer='lion': expected one of sgd, adam, adamw"),
    ],
)
def test_bad_values_are_one_line(fields, message):
    with pytest.raises(InputError, match=message):
        TrainConfig(**fields)


NOISY = """
import torch
from torch import nn

def net():
    layers = nn.Linear(64, 30), nn.BatchNorm1d(30), nn.Dropout(), nn.Linear(30, 10)
    return nn.Sequential(nn.Flatten(), *layers)
"""
MASKED = ("static", "set", "rigl", "reinforced", "noise")


@pytest.fixture
def noisy(tmp_path):
    """A model with BatchNorm and dropout."""
    (tmp_path / "noisy.py").write_text(NOISY)
    return f"{tmp_path / 'noisy.py'}:net"


def at_start(config, arrays):
    """The dense network at the start of a run, and the first batch of its training."""
    trainer = Trainer(config.replace(method="dense"), arrays)
    model, batches = copy.deepcopy(trainer.model), []
    loss = trainer._passes.loss
    trainer._passes.loss = lambda *batch: batches.append(batch) or loss(*batch)
    trainer.run_epoch()
    return model, batches[0]


def largest(scores, count):
    """The positions of the largest scores, which have no ties."""
    return scores >= scores.flatten().sort(descending=True).values[count - 1]


@pytest.mark.parametrize("method", MASKED)
@pytest.mark.parametrize("first_mask", ["magnitude", "snip"])
def test_first_masks_by_hand(first_mask, method, digits):
    config = SMALL.replace(
        method=method, first_mask=first_mask, sparsity=0.8, distribution="erk", augment="flip_crop"
    )
    model, (inputs, labels) = at_start(config, digits)
    F.cross_entropy(model.train()(inputs), labels).backward()
    kept = Target(sparsity=0.8, distribution="erk").kept(model)
    masks = Trainer(config, digits)._sparsifier.masks()
    for layer, mask in zip(("fc1", "fc2"), masks, strict=True):
        weight = model.get_submodule(layer).weight
        scores = weight.abs() if first_mask == "magnitude" else (weight * weight.grad).abs()
        # Weights of dead inputs have gradient 0, but there are enough others.
        assert torch.equal(mask, largest(scores.detach(), kept[layer]))
        assert int(mask.sum()) == kept[layer]


def test_the_published_algorithm_begins_with_the_mask_too(digits):
    published = SMALL.replace(budget="overshoot", update_clock="epoch", first_mask="magnitude")
    model, _ = at_start(published, digits)
    (mask, _) = Trainer(published, digits)._sparsifier.masks()
    assert torch.equal(mask, largest(model.fc1.weight.abs().detach(), int(mask.sum())))


def test_gradients_for_the_first_mask_leave_no_trace(noisy, digits):
    """Neither in BatchNorm's statistics nor in dropout, augmentation and batches."""
    config = SMALL.replace(model=noisy, sparsity=0.0, augment="flip_crop", method="static")
    expected = run(config, digits)
    found = run(config.replace(first_mask="snip"), digits)
    for name, value in expected.model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], value), name
    began = Trainer(config.replace(sparsity=0.5, first_mask="snip"), digits).model
    assert not began[2].running_mean.any() and began[2].num_batches_tracked == 0


def test_weights_without_a_gradient_have_no_snip_mask():
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method, target = StaticPruning(first_mask="snip"), Target(sparsity=0.5)
    with pytest.raises(InputError, match="first_mask='snip': the weight of layer '' has no grad"):
        Sparsifier(model, optimizer, method, target, generator=torch.Generator())
    model(torch.ones(2, 4)).sum().backward()
    Sparsifier(model, optimizer, method, target, generator=torch.Generator())
    assert int(model.weight.count_nonzero()) == 6


def test_weights_trained_before_survive_a_mask_by_magnitude(tmp_path, digits):
    dense = run(SMALL.replace(method="dense", epochs=12), digits)
    torch.save(dense.model.state_dict(), tmp_path / "dense.pt")
    (tmp_path / "trained.py").write_text(
        "import torch\nfrom torch import nn\nfrom collections import OrderedDict\n"
        "def net():\n"
        "    layers = dict(flatten=nn.Flatten(), fc1=nn.Linear(64, 40), relu1=nn.ReLU(),\n"
        "                  fc2=nn.Linear(40, 10))\n"
        "    model = nn.Sequential(OrderedDict(layers))\n"
        f"    model.load_state_dict(torch.load({str(tmp_path / 'dense.pt')!r}))\n"
        "    return model\n"
    )
    config = SMALL.replace(
        model=f"{tmp_path / 'trained.py'}:net", method="static", sparsity=0.7, lr=1e-12, epochs=1
    )
    accuracy = {
        name: run(config.replace(first_mask=name), digits).history[-1]["val_accuracy"]
        for name in ("random", "magnitude", "snip")
    }
    assert dense.history[-1]["val_accuracy"] > 0.9
    assert accuracy["magnitude"] > accuracy["random"] + 0.2
    assert accuracy["snip"] > accuracy["random"] + 0.2


def noted(trainer):
    """Weights, buffers and masks after each step of a trainer."""
    steps, step = [], trainer._sparsifier.step

    def noting(*args, **options):
        step(*args, **options)
        tensors = [t.detach().clone() for t in trainer.model.state_dict().values()]
        steps.append((tensors, trainer._sparsifier.masks()))

    trainer._sparsifier.step = noting
    return steps


def masked(tensors, masks):
    """The state of the ``mlp``: weight and bias of fc1, then of fc2."""
    return [
        tensor * masks[index // 2] if index % 2 == 0 else tensor
        for index, tensor in enumerate(tensors)
    ]


def test_moving_average_by_hand(digits):
    """Its decay is at most 0.9, and smaller in the first 80 steps; masks change at every 7th."""
    config = SMALL.replace(method="rigl", average="ema", average_decay=0.9, epochs=4)
    trainer = Trainer(config, digits)
    steps = noted(trainer)
    while trainer.epoch < config.epochs:
        trainer.run_epoch()
    average = [tensor.double() for tensor in steps[0][0]]
    for n, (tensors, masks) in enumerate(steps[1:], start=1):
        decay = min(0.9, (1 + n) / (10 + n))
        mixed = [decay * a + (1 - decay) * t for a, t in zip(average, tensors, strict=True)]
        average = masked(mixed, masks)
    assert n > 90
    last, masks = steps[-1]
    found = list(trainer.final_state()["model"].values())
    for mine, expected, raw in zip(found, average, last, strict=True):
        assert torch.allclose(mine, expected.float(), atol=1e-6)
        assert not torch.allclose(mine, raw, atol=1e-4)
    assert torch.equal(found[0] != 0, masks[0] & (found[0] != 0)) and found[0].any()


def test_mean_of_the_last_part_is_torchs(digits):
    """By AveragedModel; 2 epochs of 27 steps, of which the last 22 count."""
    config = SMALL.replace(method="static", average="last", average_part=0.4)
    trainer = Trainer(config, digits)
    oracle = None
    for epoch in range(2):
        steps = noted(trainer)
        trainer.run_epoch()
        if epoch == 0:
            for mine, raw in zip(
                trainer.final_state()["model"].values(), steps[-1][0], strict=True
            ):
                assert torch.equal(mine, raw)  # the average has not begun
    model = copy.deepcopy(trainer.model)
    oracle = torch.optim.swa_utils.AveragedModel(model)
    for tensors, _ in steps[-22:]:
        model.load_state_dict(dict(zip(model.state_dict(), tensors, strict=True)))
        oracle.update_parameters(model)
    state = trainer.final_state()["model"]
    for name, expected in oracle.module.state_dict().items():
        assert torch.allclose(state[name], expected, atol=1e-6), name
    assert not torch.allclose(state["fc1.weight"], trainer.model.fc1.weight, atol=1e-4)


@pytest.mark.parametrize("average", ["ema", "last"])
def test_the_average_is_evaluated_and_kept(average, digits):
    config = SMALL.replace(average=average, average_decay=0.95, epochs=6, sparsity=0.7)
    trainer = run(config, digits)
    row, state = trainer.history[-1], trainer.final_state()
    model = copy.deepcopy(trainer.model)
    assert not all(torch.equal(v, state["model"][k]) for k, v in model.state_dict().items())
    model.load_state_dict(state["model"])
    with torch.no_grad():
        outputs = model.eval()(trainer._data.x_val)
    expected = F.cross_entropy(outputs, trainer._data.y_val).item()
    assert row["val_loss"] == pytest.approx(expected, rel=1e-6)  # float32 sums
    assert row["sparsity"] == pytest.approx(0.7, abs=1e-3)
    off = {name: state["model"][f"{name}.weight"][~state["masks"][name]] for name in ("fc1", "fc2")}
    assert sum(map(len, off.values())) / (64 * 40 + 400) == row["sparsity"]
    assert not any(weights.any() for weights in off.values())
    result = trainer.finish()
    with torch.no_grad():
        assert torch.equal(result.model(trainer._data.x_val), outputs)
        predicted = result.model(torch.tensor(digits.x_test)).argmax(1).numpy()
    assert result.test_accuracy == pytest.approx((predicted == digits.y_test).mean())


def test_statistics_are_averaged_and_counters_are_copied(noisy, digits):
    config = SMALL.replace(model=noisy, average="ema", average_decay=0.5, epochs=1)
    trainer = Trainer(config, digits)
    steps = noted(trainer)
    trainer.run_epoch()
    names = list(trainer.model.state_dict())
    mean, count = names.index("2.running_mean"), names.index("2.num_batches_tracked")
    expected = steps[0][0][mean]
    for n, (tensors, _) in enumerate(steps[1:], start=1):
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * tensors[mean]
    state = trainer.final_state()["model"]
    assert torch.allclose(state["2.running_mean"], expected, atol=1e-6)
    assert state["2.num_batches_tracked"] == steps[-1][0][count] == 27


def test_a_model_that_cannot_be_copied_has_no_average(tmp_path, digits):
    (tmp_path / "fixed.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Linear):\n"
        "    def __deepcopy__(self, memo):\n        raise TypeError('there is one of me')\n"
        "    def forward(self, x):\n        return super().forward(x.flatten(1))\n"
        "def net():\n    return Net(64, 10)\n"
    )
    config = SMALL.replace(model=f"{tmp_path / 'fixed.py'}:net", average="ema")
    with pytest.raises(InputError, match="average='ema': copying the model failed .*one of me"):
        Trainer(config, digits)
