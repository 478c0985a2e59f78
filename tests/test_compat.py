"""The published classes: traces of the published code, and its draws written out again."""

import copy
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.utils import prune

from rsas.compat import Sparse_learn, Sparse_learn_v1
from rsas.sparse import Position, PublishedPruning, Sparsifier, Target
from tests.benchmarks import naive

TRACES = json.loads((Path(__file__).parent / "reference_traces.json").read_text())


def digits(shape, batch=50):
    bunch = load_digits()
    x = torch.tensor(bunch.data / 16, dtype=torch.float32).view(-1, *shape)
    y = torch.tensor(bunch.target)
    batches = [(x[i : i + batch], y[i : i + batch]) for i in range(0, 1500, batch)]
    return SimpleNamespace(train_loader=batches, test_loader=[(x[1500:], y[1500:])])


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 200), nn.ReLU(), nn.Linear(200, 10))


def cnn():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 10),
    )


class Recorder(Sparse_learn):
    """Notes the masks' densities whenever an epoch is evaluated."""

    def __init__(self):
        self.densities = []

    def evaluate(self, model, test_loader, device):
        masks = {n: round(b.mean().item(), 6) for n, b in model.named_buffers() if "mask" in n}
        self.densities.append(masks)
        return super().evaluate(model, test_loader, device)


@pytest.mark.parametrize(
    ("name", "make", "shape", "epochs", "sparsity"),
    [
        ("mlp_digits_s90_seed0", mlp, (64,), 8, 0.9),
        ("cnn_digits_s80_seed1", cnn, (1, 8, 8), 6, 0.8),
    ],
)
def test_equals_the_published_code(name, make, shape, epochs, sparsity):
    trace, model, learner = TRACES[name], make(), Recorder()
    history, measure = learner.fit_sparse(model, digits(shape), epochs, 0.1, "cpu", sparsity)

    for row, expected in zip(history, trace["history"], strict=True):
        assert row == pytest.approx(expected, abs=1e-4)
    assert learner.densities == trace["mask_density_at_epoch_end"]
    for mask_name, digest in trace["final_mask_sha256"].items():
        mask = model.get_buffer(mask_name)
        assert int(mask.sum()) == trace["final_mask_ones"][mask_name]
        bytes_ = mask.to(torch.uint8).contiguous().numpy().tobytes()
        assert hashlib.sha256(bytes_).hexdigest() == digest
    assert measure.keys() == trace["measure_sum"].keys()
    for weight_name, values in measure.items():
        assert values.sum().item() == pytest.approx(trace["measure_sum"][weight_name], abs=1e-4)
        largest = trace["measure_absmax"][weight_name]
        assert values.abs().max().item() == pytest.approx(largest, abs=1e-6)


class Residual(nn.Module):
    """A block with names as in ResNet-18: what the second version passes over, too."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.downsample = nn.Sequential(nn.Conv2d(1, 6, 1), nn.BatchNorm2d(6))
        self.fc = nn.Linear(6 * 64, 10)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)) + self.downsample(x))
        return self.fc(x.flatten(1))


@pytest.mark.parametrize(
    ("learner", "measured"),
    [
        (Sparse_learn(), lambda name: True),
        (Sparse_learn_v1(), lambda name: "conv" in name or "fc" in name),
    ],
)
def test_both_versions_equal_the_description(learner, measured):
    data = digits((1, 8, 8), batch=70)
    torch.manual_seed(4)
    model = Residual()
    twin = copy.deepcopy(model)
    torch.manual_seed(5)
    _, measure = learner.fit_sparse(model, data, 4, 0.1, "cpu", 0.7)
    torch.manual_seed(5)
    expected = naive.fit(twin, data, 4, 0.1, 0.7, measured)

    assert measure.keys() == expected.keys()
    for name in measure:
        assert torch.equal(measure[name], expected[name])
    buffers, twins = dict(model.named_buffers()), dict(twin.named_buffers())
    for name in (n for n in buffers if n.endswith("weight_mask")):
        assert torch.equal(buffers[name], twins[name])


@pytest.mark.parametrize("sparsity", [0.9, 0.95, 1.0])
def test_layers_too_small_to_keep_a_weight(sparsity):
    """Their masks are drawn all the same, so that the draws after them agree."""
    data = digits((64,))
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(64, 2), nn.ReLU(), nn.Linear(2, 4), nn.Linear(4, 10))
    twin = copy.deepcopy(model)
    torch.manual_seed(5)
    _, measure = Sparse_learn().fit_sparse(model, data, 4, 0.1, "cpu", sparsity)
    after = torch.get_rng_state()
    torch.manual_seed(5)
    expected = naive.fit(twin, data, 4, 0.1, sparsity)
    assert torch.equal(torch.get_rng_state(), after)
    for name in measure:
        assert torch.equal(measure[name], expected[name])


def test_second_version_leaves_other_layers_as_they_were_drawn():
    torch.manual_seed(4)
    model = Residual()
    torch.manual_seed(5)
    first = copy.deepcopy(model)
    for module in first.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            prune.random_unstructured(module, "weight", amount=0.7)
    torch.manual_seed(5)
    _, measure = Sparse_learn_v1().fit_sparse(model, digits((1, 8, 8)), 6, 0.1, "cpu", 0.7)
    assert set(measure) == {"conv1.weight_orig", "fc.weight_orig"}
    assert torch.equal(model.downsample[0].weight_mask, first.downsample[0].weight_mask)
    assert not torch.equal(model.fc.weight_mask, first.fc.weight_mask)


def test_reference_point_of_the_method_is_the_published_algorithm():
    """The same masks, by other means: weights masked in place, rewards folded by window."""
    data = digits((64,))
    published, model = mlp(), mlp()
    torch.manual_seed(7)
    Sparse_learn().fit_sparse(published, data, 4, 0.1, "cpu", 0.9)

    torch.manual_seed(7)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sparsifier = Sparsifier(
        model,
        optimizer,
        PublishedPruning(),
        Target(sparsity=0.9),
        generator=torch.default_generator,
    )
    for epoch in range(4):
        for step, (x, y) in enumerate(data.train_loader):
            at = Position(epoch, step, 4, len(data.train_loader))
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            sparsifier.observe(loss.detach(), at)
            optimizer.step()
            sparsifier.step(at)
    sparsifier.attach()
    for ours, theirs in ((model[0], published[0]), (model[2], published[2])):
        assert torch.equal(ours.weight_mask, theirs.weight_mask)
        on = ours.weight_mask.bool()
        assert torch.allclose(ours.weight[on], theirs.weight[on], atol=1e-5)
