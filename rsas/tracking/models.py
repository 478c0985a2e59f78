"""Networks as models in MLflow, in torch's exchange format, which contains no pickled code."""

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
    """Log a network to a run, from which ``mlflow.pytorch.load_model`` loads it.

    Args:
        uri: the URI of the tracking server.
        run: the run that the model belongs to.
        model: the network, in eval mode, on the CPU.
        example: two inputs, shape (2, ...); the logged model takes any number of inputs.

    Returns:
        The URI of the model.

    Raises:
        Exception: torch cannot export the network.
    """
    import mlflow.pytorch
    import torch
    from mlflow.models import Model

    with _quiet(), _uri(uri):
        client = connect(uri)
        owner = client.get_run(run)
        # Model.log alone would take the default experiment, whose files are in the current folder.
        logged = client.create_logged_model(
            owner.info.experiment_id, "model", run, params=dict(owner.data.params)
        )
        info = Model.log(
            artifact_path=None,
            flavor=mlflow.pytorch,
            model_id=logged.model_id,
            run_id=run,
            pytorch_model=model,
            input_example=example,
            # Named here, because MLflow would load the model in another process to find them.
            pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}"],
            serialization_format="pt2",
        )
    return str(info.model_uri)


def register(uri: str, name: str, models: Mapping[str, str]) -> dict[str, str]:
    """Register models as versions of a registered model, with aliases.

    Args:
        uri: the URI of the tracking server.
        name: the name of the registered model; a missing one is created.
        models: alias -> URI of a model that ``log_model`` returned.

    Returns:
        Alias -> version.

    Raises:
        InputError: the server refuses the registered model.
    """
    from mlflow.exceptions import MlflowException

    client = connect(uri)
    registered: dict[str, str] = {}
    try:
        with _uri(uri):
            if not client.search_registered_models(f"name = '{name}'"):
                client.create_registered_model(name)
            known = client.search_model_versions(f"name = '{name}'")
            versions = {version.source: str(version.version) for version in known}
            for alias, source in models.items():
                if source not in versions:
                    versions[source] = str(client.create_model_version(name, source).version)
                client.set_registered_model_alias(name, alias, versions[source])
                registered[alias] = versions[source]
    except MlflowException as error:
        raise InputError(f"registered model {name!r}: {first_line(error)}") from None
    return registered


@contextlib.contextmanager
def _uri(uri: str) -> Iterator[None]:
    """Set the tracking server of the process: MLflow's models take no client."""
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence MLflow and torch.export, whose notes do not help users of rsas."""
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
