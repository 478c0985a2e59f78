"""Networks as models in MLflow, in torch's own exchange format, which holds no pickled code."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rsas.errors import InputError, first_line
from rsas.tracking.client import connect

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import nn

__all__ = ["log_model", "register"]


def log_model(uri: str, run: str, model: nn.Module, example: npt.NDArray[Any]) -> str:
    """Log a network to a run; ``mlflow.pytorch.load_model`` gives it back.

    Args:
        uri: of the tracking server.
        run: whose model it is.
        model: in eval mode, on the CPU.
        example: two inputs, shape (2, ...); other numbers of them can be given to the model.

    Returns:
        The URI of the model.

    Raises:
        Exception: of torch's, where the network cannot be exported.
    """
    import mlflow.pytorch
    import torch
    from mlflow.models import Model

    with _quiet(), _uri(uri):
        client = connect(uri)
        found = client.get_run(run)
        # Else it would be one of the default experiment, whose files lie where the process does.
        made = client.create_logged_model(
            found.info.experiment_id, "model", run, params=dict(found.data.params)
        )
        info = Model.log(
            artifact_path=None,
            flavor=mlflow.pytorch,
            model_id=made.model_id,
            run_id=run,
            pytorch_model=model,
            input_example=example,
            # Known already: MLflow would load the model in another process to find out.
            pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}"],
            serialization_format="pt2",
        )
    return str(info.model_uri)


def register(uri: str, name: str, models: Mapping[str, str]) -> dict[str, str]:
    """Make models versions of a registered model, with aliases.

    Args:
        uri: of the tracking server.
        name: of the registered model; made where it is not there.
        models: alias -> URI of a model that ``log_model`` returned.

    Returns:
        Alias -> version.

    Raises:
        InputError: the server refuses it.
    """
    from mlflow.exceptions import MlflowException

    client = connect(uri)
    found: dict[str, str] = {}
    try:
        with _uri(uri):
            if not client.search_registered_models(f"name = '{name}'"):
                client.create_registered_model(name)
            versions = client.search_model_versions(f"name = '{name}'")
            known = {each.source: str(each.version) for each in versions}
            for alias, source in models.items():
                if source not in known:
                    known[source] = str(client.create_model_version(name, source).version)
                client.set_registered_model_alias(name, alias, known[source])
                found[alias] = known[source]
    except MlflowException as error:
        raise InputError(f"registered model {name!r}: {first_line(error)}") from None
    return found


@contextlib.contextmanager
def _uri(uri: str) -> Iterator[None]:
    """MLflow's models know of no client, only of the one server of the process."""
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the notes of MLflow and torch.export, which tell users of rsas nothing."""
    loggers = [logging.getLogger(name) for name in ("mlflow", "torch")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(max(logger.level, logging.ERROR))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
