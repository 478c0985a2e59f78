"""Dynamic sparse training: masks, measure values and methods. Knows only tensors and modules."""

from rsas.sparse.layers import Target, prunable
from rsas.sparse.methods import (
    GradualPruning,
    Position,
    RigLPruning,
    SetPruning,
    StaticPruning,
)
from rsas.sparse.reinforced import NoisePruning, ReinforcedPruning
from rsas.sparse.sparsifier import Sparsifier

__all__ = [
    "GradualPruning",
    "NoisePruning",
    "Position",
    "ReinforcedPruning",
    "RigLPruning",
    "SetPruning",
    "Sparsifier",
    "StaticPruning",
    "Target",
    "prunable",
]
