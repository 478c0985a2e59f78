"""One trial as a worker trains it, in this process."""

import errno
import json
import os
import signal

import pytest
import torch
from ray._raylet import raise_sys_exit_with_custom_error_message

from rsas import NonFiniteLoss, TrainConfig, Trainer, data
from rsas.errors import StorageError
from rsas.sweep.execute import worker
from rsas.sweep.execute.task import TrainerTask
from rsas.sweep.execute.worker import NOTES, OUTCOME, REASON, ROWS, TrialWorker
from rsas.sweep.experiment import Resources
from rsas.sweep.files import file_store
from rsas.sweep.files.file_store import FileStore
from rsas.sweep.files.trial_dir import read_model
from tests.leaks import LEAKS

CONFIG = TrainConfig(hidden=(20,), epochs=5, batch_size=100, update_interval=5)
KEY = "0123456789abcdef"


@pytest.fixture(autouse=True)
def an_epoch_a_step(monkeypatch):
    monkeypatch.setattr(worker, "_STEP_SECONDS", 0.0)
    monkeypatch.setattr(file_store, "_PATIENCE", 0.0)


@pytest.fixture(scope="module")
def whole():
    """A training that nothing disturbed."""
    return undisturbed(CONFIG)


def undisturbed(config):
    trainer = Trainer(config, data.load("digits"))
    while trainer.epoch < config.epochs:
        trainer.run_epoch()
    return trainer


def failed(result):
    """Why a trial failed; None where it did not."""
    return result[REASON] if result[OUTCOME] == "failed" else None


def halted(result):
    """Why the sweep cannot go on; None where it can."""
    return result[REASON] if result[OUTCOME] == "halted" else None


def worker_of(tmp_path, trial="t0000", config=CONFIG, **options):
    defaults = {
        "resources": Resources(cpus=1),
        "checkpoint_every": 2,
        "rungs": (),
        "retries": 2,
    }
    return TrialWorker(
        {"trial": trial, "train": config.to_dict()},
        task=TrainerTask("digits", data.load("digits")),
        place=str(tmp_path),
        **(defaults | options),
    )


def settings():
    """The global settings of torch."""
    return (
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_grad_enabled(),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
    )


def steps(one, count):
    return [one.step() for _ in range(count)]


def to_the_end(one):
    """The results of all steps, with no more than make sense."""
    results = []
    while not results or results[-1][OUTCOME] == "running":
        results.append(one.step())
        assert len(results) < 20
    return results


def failing(monkeypatch, *errors):
    """Epochs fail with these errors, None where all is well, in the order they are begun."""
    left, run_epoch = list(errors), Trainer.run_epoch

    def flaky(self):
        if left and (error := left.pop(0)) is not None:
            raise error
        return run_epoch(self)

    monkeypatch.setattr(Trainer, "run_epoch", flaky)


def full(monkeypatch):
    """From now on the disk is full."""

    def write(self, path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(FileStore, "_write", write)


def numbers(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def epochs(*results):
    return [row["epoch"] for result in results for row in result[ROWS]]


def trained(tmp_path, trial="t0000"):
    """Epochs in the order they were trained, of all attempts, as its files tell."""
    files = sorted((tmp_path / "trials" / trial).glob("history-*.jsonl"))
    return [json.loads(x)["epoch"] for file in files for x in file.read_text().splitlines()]


def checkpoints(tmp_path, trial="t0000"):
    return sorted(file.name for file in (tmp_path / "trials" / trial).glob("checkpoint-*"))


def assert_is(tmp_path, expected, trial="t0000"):
    """The model kept of a trial is bit for bit that of an undisturbed training."""
    found = read_model(FileStore(tmp_path / "models"), trial)
    state = expected.model.state_dict()
    assert found["model"].keys() == state.keys()
    assert all(torch.equal(found["model"][name], state[name]) for name in state)


# A trial that nothing disturbs.


def test_an_epoch_a_step_until_it_is_done(tmp_path, whole):
    results = to_the_end(worker_of(tmp_path))
    assert [result[OUTCOME] for result in results] == ["running"] * 4 + ["complete"]
    assert all(set(result) == {ROWS, NOTES, OUTCOME, REASON} for result in results)
    assert [len(result[ROWS]) for result in results] == [1] * 5
    assert numbers(row for result in results for row in result[ROWS]) == numbers(whole.history)
    assert all(result[NOTES] == [] for result in results)
    assert trained(tmp_path) == [1, 2, 3, 4, 5]
    assert checkpoints(tmp_path) == ["checkpoint-000004.pt", "checkpoint-000005.pt"]
    assert not (tmp_path / "trials" / "t0000" / "error.txt").exists()


def test_short_epochs_share_a_step(tmp_path, whole, monkeypatch):
    monkeypatch.setattr(worker, "_STEP_SECONDS", 1000.0)
    result = worker_of(tmp_path).step()
    assert result[OUTCOME] != "running"
    assert numbers(result[ROWS]) == numbers(whole.history)
    assert trained(tmp_path) == [1, 2, 3, 4, 5]  # no row twice, though written in parts


def test_a_step_ends_at_a_rung(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "_STEP_SECONDS", 1000.0)
    one = worker_of(tmp_path, rungs=(2, 3))
    results = to_the_end(one)
    assert [epochs(result) for result in results] == [[1, 2], [3], [4, 5]]


def test_rows_are_kept_before_the_driver_hears_of_them(tmp_path):
    one = worker_of(tmp_path, checkpoint_every=100)
    for count in (1, 2, 3):
        one.step()
        assert trained(tmp_path) == list(range(1, count + 1))
    assert checkpoints(tmp_path) == []


def test_rows_that_could_be_written_only_at_a_second_attempt_are_there_once(tmp_path, monkeypatch):
    one = worker_of(tmp_path, checkpoint_every=1)
    one.step()
    left, write = ["history-0001.jsonl"], FileStore._write

    def flaky(self, path, content):
        if left and path.endswith(left[0]):
            left.pop()
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, path, content)

    monkeypatch.setattr(FileStore, "_write", flaky)
    assert "No space left" in halted(one.step())
    assert trained(tmp_path) == [1, 2]


def test_no_checkpoint_is_ahead_of_the_history(tmp_path, monkeypatch):
    """Or a kill between the two would leave a gap."""
    monkeypatch.setattr(worker, "_STEP_SECONDS", 1000.0)
    write, seen = FileStore.write, []

    def look(self, name, content):
        if name.startswith("checkpoint"):
            seen.append((name, trained(tmp_path)))
        write(self, name, content)

    monkeypatch.setattr(FileStore, "write", look)
    worker_of(tmp_path).step()
    assert seen == [
        ("checkpoint-000002.pt", [1, 2]),
        ("checkpoint-000004.pt", [1, 2, 3, 4]),
        ("checkpoint-000005.pt", [1, 2, 3, 4, 5]),
    ]


def test_epochs_that_the_history_lacks_are_not_saved_at_the_end(tmp_path, monkeypatch):
    """The storage was away, and came back before the actor ended."""
    one = worker_of(tmp_path, checkpoint_every=100)
    one.step()
    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "_write", lambda *_: os.stat("/nowhere/at/all"))
        patch.setattr("rsas.sweep.files.file_store._PATIENCE", 0.0)
        assert halted(one.step())
    one.close()
    assert (trained(tmp_path), checkpoints(tmp_path)) == ([1], [])


def test_the_model_of_a_finished_trial_is_kept(tmp_path, whole):
    to_the_end(worker_of(tmp_path))
    assert_is(tmp_path, whole)
    found = read_model(FileStore(tmp_path / "models"), "t0000")
    assert found["epoch"] == 5
    assert set(found["masks"]) == {"fc1", "fc2"}
    off = sum(int((~mask).sum()) for mask in found["masks"].values())
    total = sum(mask.numel() for mask in found["masks"].values())
    assert off / total == whole.history[-1]["sparsity"] > 0
    assert found["config"] == CONFIG.replace(device="cpu").to_dict()  # as no GPU was given


def test_an_actor_is_reused_for_another_trial(tmp_path):
    one = worker_of(tmp_path)
    steps(one, 1)
    other = CONFIG.replace(sparsity=0.5, epochs=2)
    one.begin({"trial": "t0001", "train": other.to_dict()})
    results = to_the_end(one)
    expected = undisturbed(other)
    assert numbers(row for result in results for row in result[ROWS]) == numbers(expected.history)
    assert_is(tmp_path, expected, "t0001")
    assert (trained(tmp_path), trained(tmp_path, "t0001")) == ([1], [1, 2])


@pytest.mark.parametrize(
    ("change", "value", "default"),
    [
        (torch.set_default_dtype, torch.float64, torch.float32),
        (torch.set_default_device, "meta", None),
        (torch.set_grad_enabled, False, True),
        (torch.set_float32_matmul_precision, "medium", "highest"),
        (torch.use_deterministic_algorithms, True, False),
    ],
    ids=["dtype", "device", "grad", "precision", "deterministic"],
)
def test_global_settings_of_torch_end_with_their_trial(tmp_path, whole, change, value, default):
    before, one = settings(), worker_of(tmp_path)
    try:
        change(value)  # as a model does
        assert settings() != before
        one.begin({"trial": "t0001", "train": CONFIG.to_dict()})
        assert settings() == before
        to_the_end(one)
        assert_is(tmp_path, whole, "t0001")
    finally:
        change(default)


def test_threads_follow_the_cpus(tmp_path):
    worker_of(tmp_path, resources=Resources(cpus=2.0))
    assert torch.get_num_threads() == 2
    worker_of(tmp_path, resources=Resources(cpus=0.5))
    assert torch.get_num_threads() == 1


# Interruptions.


def test_goes_on_from_the_last_checkpoint_in_another_process(tmp_path, whole):
    steps(worker_of(tmp_path), 3)
    # The checkpoint is of epoch 2: epoch 3 is trained again.
    results = to_the_end(worker_of(tmp_path))
    rows = [row for result in results for row in result[ROWS]]
    assert numbers(rows) == numbers(whole.history[2:])
    assert trained(tmp_path) == [1, 2, 3, 3, 4, 5]
    assert_is(tmp_path, whole)


def test_an_actor_that_ends_keeps_what_it_has(tmp_path, whole):
    first = worker_of(tmp_path, checkpoint_every=100)
    steps(first, 3)
    first.close()
    assert checkpoints(tmp_path) == ["checkpoint-000003.pt"]
    to_the_end(worker_of(tmp_path, checkpoint_every=100))
    assert trained(tmp_path) == [1, 2, 3, 4, 5]
    assert_is(tmp_path, whole)


def test_an_actor_that_ends_writes_nothing_that_is_there(tmp_path, monkeypatch):
    begun = worker_of(tmp_path)
    begun.close()  # before its first step
    assert not (tmp_path / "trials").exists()
    steps(begun, 2)
    ended = worker_of(tmp_path, "t0001")
    to_the_end(ended)
    saved = []
    monkeypatch.setattr(TrialWorker, "_save", lambda self, trainer: saved.append(self))
    begun.close()
    ended.close()
    assert saved == []


def test_an_actor_that_ends_does_so_quietly(tmp_path, monkeypatch):
    one, other = (worker_of(tmp_path, trial, checkpoint_every=100) for trial in ("t0", "t1"))
    steps(one, 1), steps(other, 1)
    steps(worker_of(tmp_path, "t1"), 1)  # takes it over
    other.close()
    full(monkeypatch)
    one.close()
    assert checkpoints(tmp_path, "t0") == checkpoints(tmp_path, "t1") == []


def test_a_finished_trial_that_is_begun_again_trains_nothing(tmp_path, whole):
    last = to_the_end(worker_of(tmp_path))[-1]
    model = tmp_path / "models" / "t0000" / "model.pt"
    model.unlink()  # killed between the checkpoint and the model
    assert worker_of(tmp_path).step() == last
    assert trained(tmp_path) == [1, 2, 3, 4, 5]
    assert_is(tmp_path, whole)


def test_damaged_checkpoints_are_told(tmp_path, whole):
    steps(worker_of(tmp_path), 4)
    (tmp_path / "trials" / "t0000" / "checkpoint-000004.pt").write_bytes(b"damaged")
    second = worker_of(tmp_path)
    assert second.step()[NOTES] == [
        "checkpoint-000004.pt damaged, kept aside as .damaged; resumes from epoch 2"
    ]
    assert second.step()[NOTES] == []
    assert checkpoints(tmp_path)[-1] == "checkpoint-000004.pt"
    for name in ("checkpoint-000002.pt", "checkpoint-000004.pt"):
        (tmp_path / "trials" / "t0000" / name).write_bytes(b"damaged")
    results = to_the_end(worker_of(tmp_path))
    assert results[0][NOTES] == [
        "checkpoint-000004.pt, checkpoint-000002.pt damaged, kept aside as .damaged; "
        "restarts, as no other checkpoint exists"
    ]
    assert trained(tmp_path) == [1, 2, 3, 4, 3, 4, 1, 2, 3, 4, 5]
    assert_is(tmp_path, whole)


def test_who_is_superseded_stops(tmp_path):
    first = worker_of(tmp_path)
    steps(first, 3)
    second = worker_of(tmp_path)
    steps(second, 1)
    before = checkpoints(tmp_path)
    result = first.step()
    assert failed(result) is None
    assert halted(result) == "another process has taken over its trials"
    first.close()
    assert checkpoints(tmp_path) == before
    to_the_end(second)
    assert trained(tmp_path) == [1, 2, 3, 3, 4, 5]


# Errors.


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("no\nluck"), "RuntimeError: no"),
        (MemoryError(), "MemoryError"),
        (NonFiniteLoss("the training loss became nan"), "the training loss became nan"),
    ],
)
def test_goes_on_from_its_checkpoint_after_an_error(error, told, tmp_path, whole, monkeypatch):
    failing(monkeypatch, None, None, None, error, None, error)
    one = worker_of(tmp_path)
    results = to_the_end(one)
    assert all(failed(result) is None for result in results)
    assert [result[NOTES] for result in results if result[NOTES]] == [
        [f"{told}; resumes from its checkpoint"],
        [f"{told}; resumes from its checkpoint"],
    ]
    assert epochs(*results) == [1, 2, 3, 3, 3, 4, 5]
    assert trained(tmp_path) == [1, 2, 3, 3, 3, 4, 5]
    assert numbers(results[-1][ROWS]) == numbers(whole.history[-1:])
    assert_is(tmp_path, whole)
    text = (tmp_path / "trials" / "t0000" / "error.txt").read_text()
    assert text.startswith("Traceback") and told.split(": ")[-1] in text


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_fails_when_it_has_tried_often_enough(retries, tmp_path, monkeypatch):
    failing(monkeypatch, *[RuntimeError("no luck")] * (retries + 1))
    results = to_the_end(worker_of(tmp_path, retries=retries))
    assert len(results) == retries + 1
    assert results[-1] == {
        ROWS: [],
        NOTES: [],
        OUTCOME: "failed",
        REASON: "RuntimeError: no luck",
    }
    assert all(failed(result) is None for result in results[:-1])
    assert not (tmp_path / "models").exists()


def test_each_trial_of_an_actor_has_its_own_retries(tmp_path, monkeypatch):
    failing(monkeypatch, *[RuntimeError("no luck")] * 3)
    one = worker_of(tmp_path, retries=1)
    assert failed(to_the_end(one)[-1])
    one.begin({"trial": "t0001", "train": CONFIG.to_dict()})
    assert all(failed(result) is None for result in to_the_end(one))


def test_what_was_trained_before_an_error_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "_STEP_SECONDS", 1000.0)
    failing(monkeypatch, None, RuntimeError("no luck"))
    result = worker_of(tmp_path, retries=0).step()
    assert epochs(result) == trained(tmp_path) == [1]
    assert failed(result) == "RuntimeError: no luck"


def test_what_cannot_be_used_is_not_tried_again(tmp_path):
    result = worker_of(tmp_path, config=CONFIG.replace(model="nothing:net"), retries=5).step()
    assert result[OUTCOME] != "running"
    assert failed(result).startswith("model 'nothing:net': cannot import 'nothing'")


ENDING = """
import signal, sys
import torch
from torch import nn

class Pass(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 1
    @staticmethod
    def backward(ctx, gradient):
        sys.exit(0)

class Backward(nn.Linear):
    def forward(self, x):
        return Pass.apply(super().forward(x))

class Forward(nn.Linear):  # which passes the check of the model, done without gradients
    def forward(self, x):
        if torch.is_grad_enabled():
            sys.exit(0)
        return super().forward(x)

class Evaluation(nn.Linear):
    def forward(self, x):
        if torch.is_inference_mode_enabled():
            sys.exit(0)
        return super().forward(x)

class Ended(nn.Linear):
    def forward(self, x):
        if torch.is_grad_enabled():
            signal.raise_signal(signal.SIGTERM)
        return super().forward(x)

def forward(): return nn.Sequential(nn.Flatten(), Forward(64, 10))
def backward(): return nn.Sequential(nn.Flatten(), Backward(64, 10))
def evaluation(): return nn.Sequential(nn.Flatten(), Evaluation(64, 10))
def ended(): return nn.Sequential(nn.Flatten(), Ended(64, 10))
"""


def ending(tmp_path, model):
    (tmp_path / "ending.py").write_text(ENDING)
    return CONFIG.replace(model=f"{tmp_path / 'ending.py'}:{model}")


@pytest.mark.parametrize("model", ["forward", "backward", "evaluation"])
def test_a_model_that_calls_exit_fails_its_trial(model, tmp_path):
    results = to_the_end(worker_of(tmp_path, config=ending(tmp_path, model), retries=1))
    assert [failed(result) for result in results] == [
        None,
        "RuntimeError: the code called sys.exit(0)",
    ]


def test_a_worker_that_is_asked_to_end_does_so(tmp_path):
    def as_ray_does(*_):
        raise_sys_exit_with_custom_error_message("The process receives a SIGTERM.", exit_code=1)

    one = worker_of(tmp_path, config=ending(tmp_path, "ended"))
    before = signal.signal(signal.SIGTERM, as_ray_does)
    try:
        with pytest.raises(SystemExit) as ended:
            one.step()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 1


def test_a_lost_device_ends_the_process(tmp_path, monkeypatch):
    failing(monkeypatch, None, *[torch.AcceleratorError("illegal memory access")] * 2)
    one = worker_of(tmp_path, checkpoint_every=100)
    one.step()
    with pytest.raises(torch.AcceleratorError):
        one.step()
    error = (tmp_path / "trials" / "t0000" / "error.txt").read_text()
    assert "illegal memory access" in error
    one.close()  # as Tune does; the network is in the middle of an epoch
    assert checkpoints(tmp_path) == []
    one = worker_of(tmp_path)
    full(monkeypatch)
    monkeypatch.setattr(TrialWorker, "_train_on", lambda self: Trainer.run_epoch(None))
    with pytest.raises(torch.AcceleratorError):  # though its traceback cannot be kept
        one.step()


def test_a_full_disk_is_not_the_trials_fault(tmp_path, whole, monkeypatch):
    one = worker_of(tmp_path)
    steps(one, 1)
    with monkeypatch.context() as patch:
        full(patch)
        result = one.step()
        assert failed(result) is None
        assert halted(result).startswith(f"cannot write {tmp_path}/trials/t0000/history-0001.jsonl")
        assert "No space left" in halted(result)
    to_the_end(worker_of(tmp_path))
    assert trained(tmp_path) == [1, 1, 2, 3, 4, 5]
    assert_is(tmp_path, whole)


@pytest.mark.parametrize("part", ["checkpoint", "model"])
def test_no_epoch_is_lost_when_the_disk_is_full_later(part, tmp_path, whole, monkeypatch):
    write = FileStore.write

    def full_for_it(self, name, content):
        if part in name:
            raise StorageError(f"cannot write {name}")
        write(self, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "write", full_for_it)
        results = to_the_end(worker_of(tmp_path))
        assert halted(results[-1]).startswith("cannot write ")
        assert epochs(*results) == trained(tmp_path)
    to_the_end(worker_of(tmp_path))
    assert trained(tmp_path) == ([1, 2] if part == "checkpoint" else []) + [1, 2, 3, 4, 5]
    assert_is(tmp_path, whole)


def test_an_error_on_a_full_disk(tmp_path, monkeypatch):
    one = worker_of(tmp_path, retries=1)
    steps(one, 1)
    failing(monkeypatch, RuntimeError("no luck"))
    full(monkeypatch)  # so its traceback cannot be kept either
    results = to_the_end(one)
    assert "No space left" in halted(results[-1])
    assert all(failed(result) is None for result in results)


def test_secrets_are_in_no_result_and_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv("DATABASE_PASSWORD", KEY)
    error = OSError(f"no answer of https://me:{KEY}@host, nor with {KEY}")
    failing(monkeypatch, error, error)
    results = to_the_end(worker_of(tmp_path, retries=1))
    shown = "no answer of https://me:***@host, nor with ***"
    assert results[0][NOTES] == [f"OSError: {shown}; resumes from its checkpoint"]
    assert failed(results[1]) == f"OSError: {shown}"
    for file in (tmp_path / "trials" / "t0000").iterdir():
        assert KEY not in file.read_text()
    assert shown in (tmp_path / "trials" / "t0000" / "error.txt").read_text()


@pytest.mark.parametrize("leak", LEAKS, ids=lambda leak: leak.name)
def test_no_secret_of_an_error_is_told_or_kept(leak, tmp_path, monkeypatch):
    for name, value in leak.environment.items():
        monkeypatch.setenv(name, value)
    failing(monkeypatch, RuntimeError(leak.text))
    result = worker_of(tmp_path, retries=0).step()
    kept = (tmp_path / "trials" / "t0000" / "error.txt").read_text()
    assert failed(result).startswith("RuntimeError: ") and "RuntimeError: " in kept
    assert "***" in failed(result) and "***" in kept
    assert not any(secret in text for text in (failed(result), kept) for secret in leak.hidden)


# What a driver lacks.


@pytest.mark.parametrize("action", ["get_file_info", "open_input_stream"])
def test_a_storage_that_is_away_is_not_the_trials_fault(action, tmp_path):
    steps(worker_of(tmp_path), 2)
    one = worker_of(tmp_path, retries=1)
    one._folder._storage._fs = Away(one._folder._storage._fs, action)
    assert halted(to_the_end(one)[-1])


class Away:
    """A file system that does not do one of its actions."""

    def __init__(self, inner, action):
        self._inner, self._action = inner, action

    def __getattr__(self, name):
        if name == self._action:
            raise OSError("AWS Error NETWORK_CONNECTION")
        return getattr(self._inner, name)


def test_several_seeds_go_on_from_their_checkpoint(tmp_path):
    one = worker_of(tmp_path, seeds=(3, 4))
    steps(one, 2)
    rows = [row for result in steps(worker_of(tmp_path, seeds=(3, 4)), 3) for row in result[ROWS]]
    assert [row["epoch"] for row in rows] == [3, 4, 5]
    for seed in (3, 4):
        alone = undisturbed(CONFIG.replace(seed=seed)).history
        assert [row[f"seed{seed}/val_loss"] for row in rows] == [r["val_loss"] for r in alone[2:]]
