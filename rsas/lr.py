"""The learning rate of each step: a pure function of the progress of the training."""

from __future__ import annotations

from rsas.config import TrainConfig
from rsas.sparse.schedules import interpolate

__all__ = ["rate"]


def rate(config: TrainConfig, step: int, steps: int) -> float:
    """Return the learning rate of a step of the optimizer.

    The warm-up of W steps rises linearly, step t being multiplied by (t + 1) / (W + 1) (Goyal et
    al. 2017, section 2.2). The cosine begins when the warm-up ends. Milestones count from the
    beginning of the training.

    Args:
        config: ``lr``, ``lr_schedule``, ``warmup``, ``milestones`` and ``gamma`` are used.
        step: number of the step, from 0.
        steps: of the whole training, at least 1.
    """
    warm = round(config.warmup * steps)
    if config.lr_schedule == "multi_step":
        passed = sum(step >= round(share * steps) for share in config.milestones)
        lr = config.lr * config.gamma**passed
    else:
        progress = (step - warm) / max(1, steps - warm)
        lr = interpolate(config.lr_schedule, config.lr, 0.0, progress)
    return lr * (step + 1) / (warm + 1) if step < warm else lr
