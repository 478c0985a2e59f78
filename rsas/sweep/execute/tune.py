"""Let Ray Tune run what the dispatcher hands out. The only module that knows Tune."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Any

import ray
import ray.util.client
from ray import tune
from ray.train._internal import storage as tune_storage
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from rsas.data import Arrays
from rsas.sweep.execute.dispatcher import Dispatcher
from rsas.sweep.execute.worker import OUTCOME, Outcome, TrialWorker
from rsas.sweep.experiment import Experiment

__all__ = ["DispatchingSearcher", "LimitStopper", "RungScheduler", "StartCallback", "run_trials"]


def run_trials(
    dispatcher: Dispatcher,
    experiment: Experiment,
    arrays: Arrays,
    *,
    place: str,
    rungs: Sequence[int],
    slots: int,
    scratch: str,
) -> None:
    """Run trials until the dispatcher has no more.

    ``tune.run`` and not a ``Tuner``, which over ``ray://`` would run the dispatcher, and so write
    the study, on another machine.

    Args:
        dispatcher: says what to run.
        experiment: its resources, its checkpoints and its retries.
        arrays: the data set, put into the object store once.
        place: of the sweep's files on the storage.
        rungs: epochs after which the dispatcher decides whether a trial goes on.
        slots: trials that can run at once now.
        scratch: folder for Tune's own files, which nobody reads.
    """
    if ray.util.client.ray.is_connected():
        # Tune asks for the folder of a node's session, and a client on no node has none.
        tune_storage._get_ray_train_session_dir = lambda: scratch  # type: ignore[attr-defined]
    # Tune begins one trial after the other unless told how many may be on their way.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(slots)
    resources = experiment.resources
    trainable = tune.with_parameters(
        _Trainable,
        arrays=arrays,
        place=place,
        resources=resources,
        checkpoint_every=experiment.checkpoint_every,
        rungs=rungs,
        retries=experiment.retries,
        seeds=experiment.seeds,
    )
    on_interrupt = signal.getsignal(signal.SIGINT)
    try:
        tune.run(
            trainable,
            name="tune",
            storage_path=scratch,
            resources_per_trial={"cpu": resources.cpus, "gpu": resources.gpus},
            search_alg=DispatchingSearcher(dispatcher),
            scheduler=RungScheduler(dispatcher),
            stop=LimitStopper(dispatcher),
            callbacks=[StartCallback(dispatcher)],
            num_samples=-1,  # until the dispatcher has no more
            reuse_actors=True,
            max_failures=experiment.retries,
            raise_on_failed_trial=False,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # trials keep theirs
            trial_name_creator=_name_of,
            trial_dirname_creator=_name_of,
            verbose=0,
            _remote=False,
        )
    finally:  # Tune leaves a handler that takes the next Ctrl-C, and does nothing
        signal.signal(signal.SIGINT, on_interrupt)


class _Trainable(tune.Trainable):
    """A worker in an actor of Ray. Actors are reused from trial to trial."""

    def setup(self, config: dict[str, Any], **options: Any) -> None:
        """Make the worker; ``config`` is what the dispatcher gave."""
        os.environ["RAY_NODE_ID"] = str(ray.get_runtime_context().get_node_id())
        self._worker = TrialWorker(config, **options)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Run another trial in the same actor."""
        self._worker.begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train for a while."""
        result = self._worker.step()
        return {**result, "done": result[OUTCOME] != Outcome.RUNNING}

    def cleanup(self) -> None:
        """End, and keep what an interrupted trial has."""
        self._worker.close()


class DispatchingSearcher(Searcher):
    """Tune's search algorithm: asks the dispatcher for trials.

    Args:
        dispatcher: knows the study, the rungs and the budget.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        super().__init__()
        self._dispatcher = dispatcher

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        """Accept all: objectives are the study's; Tune's metric and mode are not used."""
        return True

    def suggest(  # type: ignore[override]
        self, trial_id: str
    ) -> dict[str, Any] | str | None:
        """Return a trial to run, None while there is none to begin, or FINISHED."""
        return self._dispatcher.suggest(trial_id)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass on a result that is not a trial's last."""
        self._dispatcher.report(trial_id, result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Pass on the end of a trial, or of Tune itself."""
        self._dispatcher.end(trial_id, result, died=error)

    def save(self, checkpoint_path: str) -> None:
        """Write nothing: the study is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Read nothing: the study is the state."""


class RungScheduler(FIFOScheduler):
    """Tune's scheduler: begins trials in order, and stops those that the dispatcher judges so.

    Args:
        dispatcher: knows the rungs and the budget.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._dispatcher = dispatcher

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decide at each result but a trial's last."""
        stops = self._dispatcher.judge(trial.trial_id, result)
        return str(TrialScheduler.STOP if stops else TrialScheduler.CONTINUE)


class LimitStopper(tune.Stopper):
    """Ends all trials that do not answer after a limit was reached.

    Args:
        dispatcher: knows the limits, and when trials reported.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Leave single trials to the scheduler."""
        return False

    def stop_all(self) -> bool:
        """Decide at each step of Tune's loop."""
        return self._dispatcher.watch()


class StartCallback(tune.Callback):
    """Tells the dispatcher that a trial has a process, a new one or that of an earlier trial.

    Args:
        dispatcher: counts the time of trials.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Count the time of a trial from now on."""
        self._dispatcher.start(trial.trial_id)


def _name_of(trial: Any) -> str:
    return str(trial.config["trial"])
