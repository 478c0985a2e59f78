"""Layers without a model around them."""

import pytest
import torch
from torch import nn

from rsas.sparse.layers import Layer, Prunable
from rsas.sparse.modules import Place


@pytest.fixture
def layer():
    """Makes a Layer: ``layer(weight, mask, keep=..., measure=..., gradient=...)``."""

    def make(weight, mask=None, *, keep=None, measure=None, gradient=None, dtype=torch.float32):
        values = torch.as_tensor(weight, dtype=dtype)
        on = torch.ones_like(values, dtype=torch.bool) if mask is None else torch.as_tensor(mask)
        parameter = nn.Parameter(values * on)
        parameter.grad = (
            torch.zeros_like(values) if gradient is None else torch.as_tensor(gradient, dtype=dtype)
        )
        return Layer(
            Prunable(parameter, [Place("layer", nn.Identity(), "weight")]),
            mask=on.bool(),
            keep=int(on.sum()) if keep is None else keep,
            latent=None,
            measure=torch.zeros_like(values)
            if measure is None
            else torch.as_tensor(measure, dtype=dtype),
        )

    return make
