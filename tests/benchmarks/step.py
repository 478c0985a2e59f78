"""What a training step of each method costs beside a dense one.

``python -m tests.benchmarks.step`` needs only torch and torchvision. Dense and sparse training
take turns in one process, ten steps each, over windows of steps that end with a redraw. Of every
step in the window the median over all windows counts, and the ratio is that of their sums, so that
the redraw has its share and interruptions by other programs have none.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet18

from rsas.sparse import (
    GradualPruning,
    NoisePruning,
    Position,
    PruningMethod,
    ReinforcedPruning,
    RigLPruning,
    SetPruning,
    Sparsifier,
    StaticPruning,
    Target,
)

Method = Callable[[int], PruningMethod | None]
"""Update interval -> method."""

GLOBAL = {"credit": "global", "exploration_draw": "uniform"}
METHODS: dict[str, Method] = {
    "dense": lambda _: None,
    "static": lambda _: StaticPruning(),
    "set": lambda n: SetPruning(update_interval=n),
    "rigl": lambda n: RigLPruning(update_interval=n),
    "gmp": lambda n: GradualPruning(update_interval=n),
    "noise": lambda n: NoisePruning(update_interval=n),
    "reinforced": lambda n: ReinforcedPruning(update_interval=n),
    "reinforced, global": lambda n: ReinforcedPruning(update_interval=n, **GLOBAL),
    "reinforced, global, latent": lambda n: ReinforcedPruning(
        update_interval=n, regrow="latent", **GLOBAL
    ),
}


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 1000), nn.ReLU(), nn.Linear(1000, 10))


def small_resnet18() -> nn.Module:
    """With the first layers of He et al. 2016 for 32x32 images."""
    model = resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


class Run:
    """A training that can be gone on with, so many steps at a time."""

    def __init__(
        self,
        make: Callable[[], nn.Module],
        shape: tuple[int, ...],
        method: PruningMethod | None,
        device: torch.device,
    ) -> None:
        torch.manual_seed(0)
        self.model = make().to(device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)
        self.sparsifier = Sparsifier(
            self.model,
            self.optimizer,
            method,
            Target(sparsity=0.9),
            # Not the seed of the initialisation, or all hidden units are dead (experiments/LOG.md).
            generator=torch.Generator(device).manual_seed(1),
        )
        self.x = torch.rand(10, *shape, device=device)
        self.y = torch.randint(0, 10, (10, shape[0]), device=device)
        self.device, self.done = device, 0

    def go(self, steps: int) -> list[float]:
        """Train on; returns the seconds each step took."""
        losses = torch.empty(steps, device=self.device)
        marks = [self._mark()]
        for step in range(steps):
            # So long a training that every window timed lies in its first half.
            at = Position(0, self.done, 1, 10**6)
            row = self.done % 10
            loss = F.cross_entropy(self.model(self.x[row]), self.y[row])
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            losses[step] = loss.detach()
            self.sparsifier.observe(losses[step], at)
            self.optimizer.step()
            self.sparsifier.step(at)
            self.done += 1
            marks.append(self._mark())
        if self.device.type != "cuda":
            return [b - a for a, b in pairwise(marks)]
        torch.cuda.synchronize(self.device)
        return [a.elapsed_time(b) / 1000 for a, b in pairwise(marks)]

    def copies(self) -> float:
        """What the method keeps, in float32 copies of the prunable weights."""
        layers = self.sparsifier._layers
        tensors = [t for layer in layers for t in vars(layer).values() if type(t) is torch.Tensor]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        weights = sum(4 * layer.weight.numel() for layer in layers)
        return sum(storages.values()) / weights if layers else 0.0

    def _mark(self) -> Any:
        """Now, on the clock of the device: a step must not wait for it."""
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def compare(
    make: Callable[[], nn.Module],
    shape: tuple[int, ...],
    method: PruningMethod | None,
    *,
    window: int,
    windows: int,
    device: torch.device,
) -> tuple[float, float, float, float]:
    """Dense and sparse milliseconds a step, the ratio, and the memory in copies."""
    dense, sparse = Run(make, shape, None, device), Run(make, shape, method, device)
    for run in (dense, sparse):
        run.go(min(window, 20))  # allocations, threads, caches
        run.done = 0
    turn = min(window, 10)
    seconds: dict[Run, list[list[float]]] = {dense: [], sparse: []}
    for number in range(windows):
        order = (dense, sparse) if number % 2 else (sparse, dense)
        taken: dict[Run, list[float]] = {dense: [], sparse: []}
        for _ in range(window // turn):
            for run in order:
                taken[run] += run.go(turn)
        for run in order:
            seconds[run].append(taken[run])
    d, s = (
        1000 / window * sum(statistics.median(times) for times in zip(*seconds[run], strict=True))
        for run in (dense, sparse)
    )
    sparse.go(1)  # the last step closed a window; an open one has a sum of gradients, too
    return d, s, s / d, sparse.copies()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--windows", type=int, default=11, help="windows of 100 steps for the MLP")
    parser.add_argument("--resnet-windows", type=int, default=3, help="0 leaves ResNet-18 out")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    print(f"{where}, {arguments.threads} CPU thread(s), torch {torch.__version__}, sparsity 0.9")
    print(f"{'':58}dense    method   ratio  kept (copies)")

    def line(model: str, name: str, interval: int, *found: float) -> None:
        dense, sparse, ratio, copies = found
        title = f"{model}  {name}, every {interval}"
        print(f"{title:55}{dense:8.2f} {sparse:8.2f} ms {ratio:6.3f}x {copies:6.2f}", flush=True)

    for name, method in METHODS.items():
        for interval in (50, 10) if name.startswith("reinforced") else (50,):
            found = compare(
                mlp,
                (100, 784),
                method(interval),
                window=100,
                windows=arguments.windows,
                device=device,
            )
            line("MLP 784-1000-10", name, interval, *found)
    # Ten steps a window, or a pair would take minutes on a CPU: five times the default's redraws.
    for name in ("rigl", "reinforced") if arguments.resnet_windows else ():
        found = compare(
            small_resnet18,
            (64, 3, 32, 32),
            METHODS[name](10),
            window=10,
            windows=arguments.resnet_windows,
            device=device,
        )
        line("ResNet-18 32x32", name, 10, *found)


if __name__ == "__main__":
    main()
