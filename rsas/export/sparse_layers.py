"""Compute Linear and Conv2d layers with weight matrices in CSR, by torch or scipy."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Product", "convertible", "scipy_csr", "torch_csr", "with_products"]

Product = Callable[[Tensor], Tensor]
"""Multiply a sparse matrix (rows, columns) with a dense one (columns, n)."""

_COLUMNS = 2**20
"""Bytes of image patches that are multiplied at once; at least those of one image. Larger pieces do
not fit the caches: a resnet18 at sparsity 0.9 takes 1.1 s for 64 images of 32x32 with torch's CSR,
but 3.0 s with 2**26."""


def torch_csr(weight: Tensor) -> Product:
    """Return the product with a weight of shape (rows, columns), by torch's CSR."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls it beta
        matrix = weight.to_sparse_csr()
    return lambda dense: matrix @ dense


def scipy_csr(weight: Tensor) -> Product:
    """Return the product with a weight of shape (rows, columns), by scipy's CSR on one thread."""
    from scipy.sparse import csr_array

    matrix = csr_array(weight.numpy())
    return lambda dense: torch.from_numpy(matrix @ dense.numpy())


def convertible(module: nn.Module) -> bool:
    """Return whether a layer can be computed sparsely here.

    These are Linear, and Conv2d without groups that pads a given number of zeros.
    """
    if isinstance(module, nn.Conv2d):
        padded = module.padding_mode == "zeros" and not isinstance(module.padding, str)
        return module.groups == 1 and padded
    return type(module) is nn.Linear


def with_products(model: nn.Module, product: Callable[[Tensor], Product]) -> nn.Module:
    """Return a copy of the model in which convertible layers multiply sparsely."""
    memo: dict[int, object] = {}
    for module in model.modules():
        if convertible(module):
            kind = _SparseConv2d if isinstance(module, nn.Conv2d) else _SparseLinear
            memo[id(module)] = kind(module, product)
    copied: nn.Module = copy.deepcopy(model, memo)
    return copied


class _SparseLinear(nn.Module):
    def __init__(self, layer: nn.Module, product: Callable[[Tensor], Product]) -> None:
        super().__init__()
        assert isinstance(layer, nn.Linear)
        self._product = product(layer.weight.detach())
        self._bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        y = self._product(flat.T.contiguous()).T
        if self._bias is not None:
            y = y + self._bias
        return y.reshape(*x.shape[:-1], -1)


class _SparseConv2d(nn.Module):
    """A convolution as the product of its weight and the patches of images (``F.unfold``)."""

    def __init__(self, layer: nn.Module, product: Callable[[Tensor], Product]) -> None:
        super().__init__()
        assert isinstance(layer, nn.Conv2d)
        self._layer = [layer]  # in a list, so that it is no submodule
        self._product = product(layer.weight.detach().flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        layer = self._layer[0]
        sizes = [
            (x.shape[2 + i] + 2 * int(layer.padding[i]) - layer.dilation[i] * (k - 1) - 1)
            // layer.stride[i]
            + 1
            for i, k in enumerate(layer.kernel_size)
        ]
        patch = layer.in_channels * layer.kernel_size[0] * layer.kernel_size[1]
        needed = len(x) * patch * sizes[0] * sizes[1] * x.element_size()
        pieces = [self._multiply(piece, layer) for piece in x.chunk(-(-needed // _COLUMNS))]
        return torch.cat(pieces).reshape(len(x), layer.out_channels, *sizes)

    def _multiply(self, x: Tensor, layer: nn.Conv2d) -> Tensor:
        columns = F.unfold(
            x,
            layer.kernel_size,
            dilation=layer.dilation,
            padding=layer.padding,  # type: ignore[arg-type]
            stride=layer.stride,
        )
        y = self._product(columns.transpose(0, 1).reshape(columns.shape[1], -1))
        y = y.reshape(layer.out_channels, len(x), -1).transpose(0, 1)
        return y if layer.bias is None else y + layer.bias[:, None]
