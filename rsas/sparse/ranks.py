"""Agreement among the processes that train one model with ``torch.distributed``.

A single process gets back what it gave, and nothing is sent.
"""

import torch.distributed as dist
from torch import Tensor

__all__ = ["first_of_ranks", "mean_of_ranks"]


def first_of_ranks(tensor: Tensor) -> Tensor:
    """Return the tensor of rank 0; shape, dtype and device are the same on all ranks."""
    if not _are_many():
        return tensor
    shared = tensor.clone()
    dist.broadcast(shared, src=0)
    return shared


def mean_of_ranks(tensor: Tensor) -> Tensor:
    """Return the mean of the tensors of all ranks, bit for bit the same on each."""
    if not _are_many():
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def _are_many() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
