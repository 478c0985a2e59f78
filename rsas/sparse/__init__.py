"""Dynamic sparse training: masks, measure values and methods. Knows only tensors and modules."""

from rsas.sparse.layers import Prunable, Target, prunable
from rsas.sparse.methods import (
    GradualPruning,
    Position,
    PruningMethod,
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
    "Prunable",
    "PruningMethod",
    "ReinforcedPruning",
    "RigLPruning",
    "SetPruning",
    "Sparsifier",
    "StaticPruning",
    "Target",
    "prunable",
]
