"""Two processes train one model with DistributedDataParallel: masks and weights stay the same."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from rsas.sparse import (
    GradualPruning,
    NoisePruning,
    Position,
    ReinforcedPruning,
    RigLPruning,
    SetPruning,
    Sparsifier,
    Target,
)
from rsas.sparse.ranks import first_of_ranks, mean_of_ranks

METHODS = {
    "set": SetPruning(update_interval=3),
    "rigl": RigLPruning(update_interval=3),
    "gmp": GradualPruning(update_interval=3),
    "noise": NoisePruning(update_interval=3),
    "default": ReinforcedPruning(update_interval=3),
    "global": ReinforcedPruning(update_interval=3, credit="global", reward_baseline="mean"),
    "paired": ReinforcedPruning(update_interval=3, credit="global", paired=True),
    "latent": ReinforcedPruning(update_interval=3, credit="global", regrow="latent"),
}
STEPS = 15


def train(method, *, seed, data, wrap, first):
    """Train; ``first``: the wrapper is there before the masks are."""
    torch.manual_seed(seed)
    inner = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    inner = inner.to(memory_format=torch.channels_last)
    model = wrap(inner) if first else inner
    optimizer = torch.optim.SGD(inner.parameters(), lr=0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(100 + seed)
    sparsifier = Sparsifier(model, optimizer, method, Target(sparsity=0.7), generator=generator)
    model = model if first else wrap(inner)
    generator = torch.Generator().manual_seed(data)
    seen = [sparsifier.masks()]
    for step in range(STEPS):
        at = Position(0, step, 1, STEPS)
        x = torch.randn(16, 2, 6, 6, generator=generator)
        y = torch.randint(0, 3, (16,), generator=generator)
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        sparsifier.observe(loss, at)
        optimizer.step()
        sparsifier.step(at, lambda x=x, y=y: nn.functional.cross_entropy(inner(x), y))
        if not all(map(torch.equal, seen[-1], sparsifier.masks())):
            seen.append(sparsifier.masks())
    layers = sparsifier.state_dict()["layers"]
    measures = [layer["measure"] for layer in layers.values()]
    return {
        "names": list(layers),
        "masks": seen,
        "weights": [parameter.detach() for parameter in inner.parameters()],
        "measures": [measure for measure in measures if measure is not None],
    }


def same(model):
    return model


def work(rank, folder):
    """What each of the two processes does."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    losses = torch.tensor([1.0, 4.0 * rank])
    results = {"mean": mean_of_ranks(losses), "first": first_of_ranks(losses), "losses": losses}
    for name, method in METHODS.items():
        for first in (True, False):
            results[name, first] = train(
                method, seed=rank, data=rank, wrap=DistributedDataParallel, first=first
            )
        results[name, "equal data"] = train(
            method, seed=rank, data=0, wrap=DistributedDataParallel, first=True
        )
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What the two processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        torch.multiprocessing.spawn(work, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def equal(one, other):
    return len(one) == len(other) and all(map(torch.equal, one, other))


@pytest.mark.slow
@pytest.mark.parametrize("first", [True, False], ids=["wrapped before", "wrapped after"])
@pytest.mark.parametrize("name", METHODS)
def test_ranks_with_seeds_and_data_of_their_own_stay_the_same(name, first, ranks):
    one, other = (found[name, first] for found in ranks)
    assert one["names"] == other["names"] == ["0", "3"]  # and not "module.0"
    assert len(one["masks"]) > 2  # there were redraws
    assert len(one["masks"]) == len(other["masks"])
    assert all(map(equal, one["masks"], other["masks"]))
    assert equal(one["weights"], other["weights"])
    if name != "noise":  # whose values only rank 0 draws by
        assert equal(one["measures"], other["measures"])


@pytest.mark.parametrize("name", METHODS)
def test_ranks_with_equal_data_train_as_one_process(name, ranks):
    """Rank 0's: gradients and losses are means of two equal numbers."""
    alone = train(METHODS[name], seed=0, data=0, wrap=same, first=True)
    found = ranks[0][name, "equal data"]
    assert all(map(equal, alone["masks"], found["masks"]))
    assert equal(alone["weights"], found["weights"])
    assert equal(alone["measures"], found["measures"])


def test_numbers_of_the_ranks_are_averaged_and_those_of_the_first_one_are_shared(ranks):
    for rank, found in enumerate(ranks):
        assert found["mean"].tolist() == [1.0, 2.0]
        assert found["first"].tolist() == [1.0, 0.0]
        assert found["losses"].tolist() == [1.0, 4.0 * rank]  # left as they were
