"""Dynamic sparse training: masks, measure values and methods. Knows only tensors and modules."""

from rsas.sparse.methods import Position, ReinforcedPruning, StaticPruning
from rsas.sparse.sparsifier import Sparsifier, prunable

__all__ = ["Position", "ReinforcedPruning", "Sparsifier", "StaticPruning", "prunable"]
