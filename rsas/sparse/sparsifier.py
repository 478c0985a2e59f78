"""Puts masks on a model's weights and keeps them true while an optimizer moves the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from rsas.sparse import distributions, masks
from rsas.sparse.measure import RewardWindow
from rsas.sparse.methods import Position, ReinforcedPruning, StaticPruning

__all__ = ["PRUNABLE", "Sparsifier", "prunable"]

PRUNABLE = (nn.Conv2d, nn.Linear)
"""Modules whose ``weight`` is pruned; biases and normalisation layers never are."""


@dataclass
class _Layer:
    """One pruned weight tensor."""

    name: str  # of the module, as in model.named_modules()
    modules: list[nn.Module]  # all that hold the weight: more than one where it is shared
    weight: nn.Parameter  # zero wherever the mask is off
    mask: Tensor  # boolean
    keep: int  # ones after a redraw
    latent: Tensor | None  # values of weights that are off; None where they regrow at zero
    measure: Tensor | None


class Sparsifier:
    """Masks on every Conv2d and Linear weight of a model, and the method that redraws them.

    The weights themselves are kept masked, in place, so the forward and backward passes are
    those of the plain model. Call ``observe`` after each backward pass and ``step`` after each
    step of the optimizer. With ``method`` None the model stays dense and both do nothing.

    Args:
        model: moved to its device already; initial masks are put on at once.
        optimizer: of the model; its state is zeroed for weights that come back on.
        method: the pruning method, or None.
        sparsity: share of each weight tensor that is off, in [0, 1].
        generator: source of all draws, on the device of the model.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        method: StaticPruning | None,
        *,
        sparsity: float,
        generator: torch.Generator,
    ) -> None:
        self._optimizer = optimizer
        self._method = method
        self._generator = generator
        self._prunable = prunable(model)
        self._layers: list[_Layer] = []
        self._window: RewardWindow | None = None
        if method is None:
            return
        for weight, (name, modules) in self._prunable.items():
            first = distributions.kept(weight.numel(), sparsity)
            learns = isinstance(method, ReinforcedPruning)
            latent = isinstance(method, ReinforcedPruning) and method.regrow == "latent"
            everywhere = torch.ones_like(weight, dtype=torch.bool)
            layer = _Layer(
                name=name,
                modules=modules,
                weight=weight,
                mask=masks.draw(everywhere, first, generator=generator),
                keep=method.kept(weight.numel(), sparsity),
                latent=weight.detach().clone() if latent else None,
                measure=torch.zeros_like(weight) if learns else None,
            )
            self._layers.append(layer)
        self._mask_weights()
        if isinstance(method, ReinforcedPruning):
            self._window = RewardWindow(
                rate=method.measure_lr,
                update=method.measure_update,
                reward=method.reward,
                count_first_loss=method.count_first_loss,
                device=generator.device,
            )

    def observe(self, loss: Tensor) -> None:
        """Take the loss of this step (a detached scalar on the device)."""
        if self._window is not None:
            self._window.observe(loss)

    def step(self, at: Position) -> None:
        """Mask the weights the optimizer has moved; redraw the masks where the method says."""
        self._mask_weights()
        if self._method is None:
            return
        exploited = self._method.exploited(at)
        if exploited is not None:
            self._redraw(exploited)

    def sparsity(self) -> tuple[float, dict[str, float]]:
        """Measured share of prunable weights that are off: of all, and by layer."""
        if not self._layers:
            return 0.0, {name: 0.0 for name, _ in self._prunable.values()}
        off = torch.stack([(~layer.mask).sum() for layer in self._layers]).tolist()
        sizes = [layer.mask.numel() for layer in self._layers]
        by_layer = {
            layer.name: n / size for layer, n, size in zip(self._layers, off, sizes, strict=True)
        }
        return sum(off) / sum(sizes), by_layer

    def attach(self) -> None:
        """Hand the masks over to ``torch.nn.utils.prune``, which reparametrises the weights.

        Afterwards the model is an ordinary pruned one: ``prune.is_pruned`` is true, its state
        holds ``weight_orig`` and ``weight_mask``, and ``prune.remove`` makes zeros permanent.
        """
        for layer in self._layers:
            for module in layer.modules:
                prune.custom_from_mask(module, "weight", layer.mask.to(layer.weight.dtype))

    def state_dict(self) -> dict[str, Any]:
        """Masks, latent and measure values, and the open reward window."""
        return {
            "layers": {
                layer.name: {
                    "mask": layer.mask,
                    "latent": layer.latent,
                    "measure": layer.measure,
                }
                for layer in self._layers
            },
            "window": None if self._window is None else self._window.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state_dict()``; the model's weights are loaded apart."""
        for layer in self._layers:
            saved = state["layers"][layer.name]
            layer.mask = saved["mask"]
            layer.latent = saved["latent"]
            layer.measure = saved["measure"]
        if self._window is not None:
            self._window.load_state_dict(state["window"])

    @torch.no_grad()
    def _mask_weights(self) -> None:
        for layer in self._layers:
            layer.weight.mul_(layer.mask)

    @torch.no_grad()
    def _redraw(self, exploited: float) -> None:
        method, window = self._method, self._window
        assert isinstance(method, ReinforcedPruning) and window is not None
        for layer in self._layers:
            assert layer.measure is not None
            window.apply(layer.measure, layer.mask)
            mask = method.next_mask(layer.measure, layer.keep, exploited, generator=self._generator)
            if layer.latent is not None:
                layer.latent = torch.where(layer.mask, layer.weight, layer.latent)
                layer.weight.copy_(layer.latent)
            self._forget(layer.weight, mask & ~layer.mask)
            layer.mask = mask
        window.reset()
        self._mask_weights()

    def _forget(self, weight: nn.Parameter, positions: Tensor) -> None:
        """Zero what the optimizer remembers of weights that come back on."""
        for value in self._optimizer.state.get(weight, {}).values():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                value.masked_fill_(positions, 0)


def prunable(model: nn.Module) -> dict[nn.Parameter, tuple[str, list[nn.Module]]]:
    """Each prunable weight once, with the name of its first module and all its modules."""
    found: dict[nn.Parameter, tuple[str, list[nn.Module]]] = {}
    for name, module in model.named_modules():
        if isinstance(module, PRUNABLE):
            weight = module.weight
            assert isinstance(weight, nn.Parameter)
            found.setdefault(weight, (name, []))[1].append(module)
    return found
