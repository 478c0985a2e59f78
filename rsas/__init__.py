"""Search the sparsity-accuracy trade-off of reinforced sparse networks.

``rsas.train(rsas.TrainConfig(...))`` trains one network; the command line (``rsas --help``)
searches. Names are imported on first use, so that the command line starts at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsas import export
    from rsas.config import TrainConfig
    from rsas.errors import InputError, NonFiniteLoss
    from rsas.sparse import PublishedPruning, ReinforcedPruning
    from rsas.trainer import RunResult, Trainer, train

__version__ = "0.1.0"

__all__ = [
    "InputError",
    "NonFiniteLoss",
    "PublishedPruning",
    "ReinforcedPruning",
    "RunResult",
    "TrainConfig",
    "Trainer",
    "export",
    "train",
]

_HOME = {
    "InputError": "rsas.errors",
    "NonFiniteLoss": "rsas.errors",
    "PublishedPruning": "rsas.sparse",
    "ReinforcedPruning": "rsas.sparse",
    "RunResult": "rsas.trainer",
    "TrainConfig": "rsas.config",
    "Trainer": "rsas.trainer",
    "train": "rsas.trainer",
}


def __getattr__(name: str) -> Any:
    if name == "export":
        return import_module("rsas.export")
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'rsas' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
