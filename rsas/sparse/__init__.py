"""Dynamic sparse training: masks, measure values and methods. Knows only tensors and modules."""

from rsas.sparse.layers import Prunable, Target, prunable
from rsas.sparse.methods import (
    GradualPruning,
    PruningMethod,
    Redraw,
    RigLPruning,
    SetPruning,
    StaticPruning,
)
from rsas.sparse.published import PublishedNoise, PublishedPruning
from rsas.sparse.reinforced import ExploringPruning, NoisePruning, ReinforcedPruning
from rsas.sparse.schedules import Clock, Every, Position
from rsas.sparse.sparsifier import Sparsifier

__all__ = [
    "Clock",
    "Every",
    "ExploringPruning",
    "GradualPruning",
    "NoisePruning",
    "Position",
    "Prunable",
    "PruningMethod",
    "PublishedNoise",
    "PublishedPruning",
    "Redraw",
    "ReinforcedPruning",
    "RigLPruning",
    "SetPruning",
    "Sparsifier",
    "StaticPruning",
    "Target",
    "prunable",
]
