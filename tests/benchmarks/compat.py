"""``rsas.compat.Sparse_learn`` beside the published algorithm written naively.

``python -m tests.benchmarks.compat`` trains 784-1000-10 by both in turns, from the same seed, and
compares their masks. Dense training of the same network is the least that both can take.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsas.compat import Sparse_learn
from tests.benchmarks import naive


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50, help="steps an epoch (default 50)")
    parser.add_argument("--epochs", type=int, default=8, help="the last has one redraw (default 8)")
    parser.add_argument("--pairs", type=int, default=5, help="runs of each (default 5)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, y = torch.rand(10, 100, 784), torch.randint(0, 10, (10, 100))
    batches = [(x[i % 10], y[i % 10]) for i in range(arguments.steps)]
    data = SimpleNamespace(train_loader=batches, test_loader=batches[:1])
    model = nn.Sequential(nn.Linear(784, 1000), nn.ReLU(), nn.Linear(1000, 10))

    def timed(train: Callable[[nn.Module], object]) -> tuple[float, nn.Module]:
        trained = copy.deepcopy(model)
        torch.manual_seed(1)
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            train(trained)
        return (time.perf_counter() - start) / arguments.epochs / arguments.steps, trained

    epochs = arguments.epochs
    seconds, differing = [], 0
    for _ in range(arguments.pairs):
        slow, theirs = timed(lambda m: naive.fit(m, data, epochs, 0.1, 0.9))
        fast, ours = timed(lambda m: Sparse_learn().fit_sparse(m, data, epochs, 0.1, "cpu", 0.9))
        dense, _ = timed(lambda m: _train_dense(m, batches, epochs))
        seconds.append((slow, fast, dense))
        for module, twin in zip(ours, theirs, strict=True):
            if isinstance(module, nn.Linear):
                differing += int((module.weight_mask != twin.weight_mask).sum())
    slow, fast, dense = (1000 * statistics.median(column) for column in zip(*seconds, strict=True))
    ratio = statistics.median(slow / fast for slow, fast, _ in seconds)
    bound = statistics.median(slow / dense for slow, _, dense in seconds)
    print("compat.Sparse_learn, MLP 784-1000-10, milliseconds a step:")
    print(f"  naive {slow:.2f}, compat {fast:.2f}, dense {dense:.2f}")
    print(f"  {ratio:.2f}x faster than naive, where dense training is {bound:.2f}x faster")
    print(f"  weights whose masks differ: {differing}")


def _train_dense(model: nn.Module, batches: list[tuple[Tensor, Tensor]], epochs: int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(epochs):
        for x, y in batches:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


if __name__ == "__main__":
    main()
