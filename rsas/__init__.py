"""Search the sparsity-accuracy trade-off of reinforced sparse networks.

``rsas.train(rsas.TrainConfig(...))`` trains one network; the command line (``rsas --help``)
searches. What a user's file needs is here. Names are imported on first use, so neither Ray nor
torch is loaded before something needs them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsas import export
    from rsas.config import Pruning, TrainConfig
    from rsas.errors import InputError, NonFiniteLoss
    from rsas.load import load_sweep
    from rsas.loop import LoopResult, Run, run
    from rsas.records import Objective
    from rsas.sparse import PublishedPruning, ReinforcedPruning
    from rsas.sweep.experiment import Budget, Experiment, Resources, as_published
    from rsas.trainer import RunResult, Trainer, train

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "Experiment",
    "InputError",
    "LoopResult",
    "NonFiniteLoss",
    "Objective",
    "Pruning",
    "PublishedPruning",
    "ReinforcedPruning",
    "Resources",
    "Run",
    "RunResult",
    "TrainConfig",
    "Trainer",
    "as_published",
    "export",
    "load_sweep",
    "run",
    "train",
]

_HOME = {
    "Budget": "rsas.sweep.experiment",
    "Experiment": "rsas.sweep.experiment",
    "InputError": "rsas.errors",
    "LoopResult": "rsas.loop",
    "NonFiniteLoss": "rsas.errors",
    "Objective": "rsas.records",
    "Pruning": "rsas.config",
    "PublishedPruning": "rsas.sparse",
    "ReinforcedPruning": "rsas.sparse",
    "Resources": "rsas.sweep.experiment",
    "Run": "rsas.loop",
    "RunResult": "rsas.trainer",
    "TrainConfig": "rsas.config",
    "Trainer": "rsas.trainer",
    "as_published": "rsas.sweep.experiment",
    "load_sweep": "rsas.load",
    "run": "rsas.loop",
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
