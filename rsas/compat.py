"""The published classes, drop-in: the published scripts run with only their import changed.

``Sparse_learn`` and ``Sparse_learn_v1`` keep the published signature, return value, order of
random draws and results, faults included (``rsas/sparse/README.md`` lists them). For new work use
``rsas.train``, where the faults are mended.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

from rsas.sparse.distributions import kept_published
from rsas.sparse.masks import as_int8
from rsas.sparse.published import PublishedPruning, overshooting_mask

__all__ = ["LoaderPair", "Sparse_learn", "Sparse_learn_v1"]

_Loader = Iterable[tuple[Tensor, Tensor]]


class LoaderPair(Protocol):
    """A data set as the published code takes it: an object with two loaders of batches."""

    train_loader: _Loader
    test_loader: _Loader


class Sparse_learn:
    """Train a network by the published algorithm (first version of its module)."""

    def fit_sparse(
        self,
        model: nn.Module,
        dataset: LoaderPair,
        epochs: int,
        lr: float,
        device: torch.device | str,
        sparsity_value: float,
        opt_func: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
    ) -> tuple[list[list[float]], dict[str, Tensor]]:
        """Prune ``model`` at random, train it, and redraw its masks on the way.

        Args:
            model: on ``device`` already; it ends with ``torch.nn.utils.prune`` masks on every
                Conv2d and Linear weight. Its train or eval mode is left as it is given, for
                the evaluation too.
            dataset: has ``train_loader`` and ``test_loader``, iterables of (inputs, labels).
            epochs: at least 1.
            lr: learning rate, the second argument of ``opt_func``.
            device: where batches are moved to.
            sparsity_value: share of each weight that is off, a float in [0, 1].
            opt_func: optimizer class.

        Returns:
            history: ``[epoch, last batch's train loss, last test batch's loss, test accuracy
                in %]`` for each epoch, counted from 0.
            measure_value: measure values by parameter name, such as ``"0.weight_orig"``.
        """
        optimizer = opt_func(model.parameters(), lr)
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                prune.random_unstructured(module, name="weight", amount=sparsity_value)
        layers = [
            _Layer(name, weight, model.get_buffer(name.removesuffix("orig") + "mask"))
            for name, weight in model.named_parameters()
            if name.endswith("weight_orig") and self._is_measured(name)
        ]
        method = PublishedPruning()
        previous_loss = 0.0
        history: list[list[float]] = []
        for epoch in range(epochs):
            loss_value = math.nan
            for step, (inputs, labels) in enumerate(dataset.train_loader):
                loss = F.cross_entropy(model(inputs.to(device)), labels.to(device))
                optimizer.zero_grad()
                loss.backward()
                loss_value = loss.item()
                for layer in layers:
                    layer.reward(method.measure_lr * (loss_value - previous_loss))
                previous_loss = loss_value
                optimizer.step()
                last = epoch == epochs - 1
                if step == 0 if last else step % method.update_interval == 0:
                    exploited = 1.0 if last else epoch / epochs
                    for layer in layers:
                        layer.redraw(sparsity_value, exploited)
            test_loss, accuracy = self.evaluate(model, dataset.test_loader, device)
            history.append([epoch, loss_value, test_loss.item(), accuracy])
            print(
                f"epoch {epoch}: train loss {loss_value:.4f}, "
                f"test loss {test_loss.item():.4f}, test accuracy {accuracy:.2f}%"
            )
        return history, {layer.name: layer.measure() for layer in layers}

    @torch.no_grad()
    def evaluate(
        self, model: nn.Module, test_loader: _Loader, device: torch.device | str
    ) -> tuple[Tensor, float]:
        """Return the last batch's loss and the accuracy in % over all, in the model's mode."""
        loss = torch.tensor(math.nan)
        correct = total = 0
        for inputs, labels in test_loader:
            outputs, targets = model(inputs.to(device)), labels.to(device)
            loss = F.cross_entropy(outputs, targets)
            correct += int((outputs.argmax(1) == targets).sum())
            total += len(labels)
        return loss, 100.0 * correct / total

    @staticmethod
    def _is_measured(name: str) -> bool:
        return True


class Sparse_learn_v1(Sparse_learn):
    """The second version of the published module, made for ResNet.

    Only weights whose parameter name contains "conv" or "fc" are measured and redrawn; others,
    such as ResNet's ``downsample.0``, keep their first random mask.
    """

    @staticmethod
    def _is_measured(name: str) -> bool:
        return "conv" in name or "fc" in name


class _Layer:
    """A pruned weight and its measure values.

    The published code adds each reward at its step. Here the next redraw adds them one after the
    other: the roundings are the same, and the tensors are in the cache.
    """

    def __init__(self, name: str, weight: nn.Parameter, mask: Tensor) -> None:
        self.name = name
        self._mask = mask
        self._measure = torch.zeros(weight.shape, dtype=weight.dtype, device=weight.device)
        self._rewards: list[float] = []

    def reward(self, amount: float) -> None:
        self._rewards.append(amount)

    def redraw(self, sparsity: float, exploited: float) -> None:
        keep = kept_published(self._mask.numel(), sparsity)
        mask = overshooting_mask(self.measure(), keep, exploited)
        self._mask.copy_(as_int8(mask))

    def measure(self) -> Tensor:
        for amount in self._rewards:
            self._measure.add_(self._mask, alpha=amount)
        self._rewards = []
        return self._measure
