"""The published algorithm, written from its description step by step, as anybody would."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

__all__ = ["fit"]


def fit(
    model: nn.Module,
    dataset: Any,
    epochs: int,
    lr: float,
    sparsity: float,
    measured: Callable[[str], bool] = lambda _: True,
) -> dict[str, Tensor]:
    """Train as ``rsas.compat.Sparse_learn.fit_sparse`` does, without its evaluation.

    A reward is added to the whole measure tensor at every step, and a redraw sorts all weights
    for the best and all random numbers for the rest.

    Returns:
        The measure values by parameter name; the masks are in the model.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr)
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            prune.random_unstructured(module, "weight", amount=sparsity)
    names = [n for n, _ in model.named_parameters() if n.endswith("weight_orig") and measured(n)]
    value = {n: torch.zeros_like(p) for n, p in model.named_parameters() if n in names}
    previous = 0.0
    for epoch in range(epochs):
        for i, (x, y) in enumerate(dataset.train_loader):
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            masks = {n.removesuffix("mask"): b for n, b in model.named_buffers()}
            with torch.no_grad():
                reward = 0.01 * (loss.item() - previous)
                for n in names:
                    value[n] += reward * masks[n.removesuffix("orig")]
            previous = loss.item()
            optimizer.step()
            last = epoch == epochs - 1
            if (i % 10 == 0 and not last) or (i == 0 and last):
                for n in names:
                    mask = masks[n.removesuffix("orig")]
                    mask.copy_(_redrawn(value[n], sparsity, 1.0 if last else epoch / epochs))
    return value


def _redrawn(value: Tensor, sparsity: float, exploited: float) -> Tensor:
    size = value.numel()
    k = math.floor(size * (1 - sparsity))
    best = torch.topk(value.view(-1), math.floor(k * exploited)).indices
    if exploited == 1.0:
        mask = torch.zeros_like(value)
    else:
        mask = prune.RandomUnstructured(amount=size - k).prune(torch.ones_like(value))
    mask.view(-1)[best] = 1
    return mask
