"""Run the dispatcher's trials with Ray Tune. No other module imports Tune."""

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

from rsas.sweep.execute.dispatcher import Dispatcher
from rsas.sweep.execute.task import Task
from rsas.sweep.execute.worker import OUTCOME, Outcome, TrialWorker
from rsas.sweep.experiment import Experiment

__all__ = ["DispatchingSearcher", "LimitStopper", "RungScheduler", "StartCallback", "run_trials"]


def run_trials(
    dispatcher: Dispatcher,
    experiment: Experiment,
    task: Task,
    *,
    location: str,
    rungs: Sequence[int],
    slots: int,
    scratch: str,
) -> None:
    """Run trials until the dispatcher has no more.

    The function calls ``tune.run`` and not a ``Tuner``. Over ``ray://``, a ``Tuner`` would run the
    dispatcher on another machine, which would then write the study.

    Args:
        dispatcher: hands out the trials.
        experiment: its resources, its checkpoints and its retries.
        task: the training of all trials; its data set is put into the object store once.
        location: path or URI of the sweep's files on the storage.
        rungs: epochs after which the dispatcher decides whether a trial goes on.
        slots: trials that can run at once now.
        scratch: folder for Tune's own files, which nobody reads.
    """
    if ray.util.client.ray.is_connected():
        # Tune asks for the folder of a node's session. A client outside the cluster has none.
        tune_storage._get_ray_train_session_dir = lambda: scratch  # type: ignore[attr-defined]
    # Without this limit of pending trials, Tune starts one trial after the other.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(slots)
    resources = experiment.resources
    trainable = tune.with_parameters(
        _Trainable,
        task=task,
        place=location,
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
            # Trials write their own checkpoints.
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            trial_name_creator=_name_of,
            trial_dirname_creator=_name_of,
            verbose=0,
            _remote=False,
        )
    finally:  # Tune leaves a handler that ignores the next Ctrl-C
        signal.signal(signal.SIGINT, on_interrupt)


class _Trainable(tune.Trainable):
    """A worker in a Ray actor, which runs several trials, one after the other."""

    def setup(self, config: dict[str, Any], **options: Any) -> None:
        """Create the worker; ``config`` comes from the dispatcher."""
        os.environ["RAY_NODE_ID"] = str(ray.get_runtime_context().get_node_id())
        self._worker = TrialWorker(config, **options)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Switch to another trial in the same actor."""
        self._worker.begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train for a while; return the result."""
        result = self._worker.step()
        return {**result, "done": result[OUTCOME] != Outcome.RUNNING}

    def cleanup(self) -> None:
        """Save the state of an interrupted trial, and end."""
        self._worker.close()


class DispatchingSearcher(Searcher):
    """Tune's search algorithm, which asks the dispatcher for trials.

    Args:
        dispatcher: knows the study, the rungs and the budget.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        super().__init__()
        self._dispatcher = dispatcher

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        """Accept and ignore Tune's metric and mode: the study has the objectives."""
        return True

    def suggest(  # type: ignore[override]
        self, trial_id: str
    ) -> dict[str, Any] | str | None:
        """Return a trial to run, None while none can start, or FINISHED."""
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
    """Tune's scheduler, which starts trials in order and stops those that the dispatcher rejects.

    Args:
        dispatcher: knows the rungs and the budget.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._dispatcher = dispatcher

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return STOP or CONTINUE, for each result but a trial's last."""
        stops = self._dispatcher.judge(trial.trial_id, result)
        return str(TrialScheduler.STOP if stops else TrialScheduler.CONTINUE)


class LimitStopper(tune.Stopper):
    """Tune's stopper, which ends all trials that do not answer after a limit was reached.

    Args:
        dispatcher: knows the limits, and when trials reported.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return False, as the scheduler decides on single trials."""
        return False

    def stop_all(self) -> bool:
        """Return whether to end all trials; called in each step of Tune's loop."""
        return self._dispatcher.watch()


class StartCallback(tune.Callback):
    """Tune's callback, which tells the dispatcher that a trial has a process.

    The process may be new, or that of an earlier trial.

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
