"""Trials that train a loop of the user's own, in a worker of this process."""

import textwrap
import threading

import pytest
import torch

from rsas import InputError
from rsas.config import LoopConfig
from rsas.loop_trainer import LoopTrainer
from rsas.sweep.execute import worker
from rsas.sweep.execute.task import LoopTask, task_of
from rsas.sweep.execute.worker import NOTES, OUTCOME, REASON, ROWS, TrialWorker
from rsas.sweep.experiment import Resources, load_experiment
from rsas.sweep.files.file_store import FileStore
from rsas.sweep.files.trial_dir import read_model
from rsas.sweep.suggest.space import sample
from tests.loops import EPOCHS, train

CONFIG = LoopConfig(method="rigl", update_interval=4, epochs=EPOCHS, params={"lr": 0.01})


@pytest.fixture(autouse=True)
def an_epoch_a_step(monkeypatch):
    monkeypatch.setattr(worker, "_STEP_SECONDS", 0.0)


@pytest.fixture
def written(tmp_path):
    """Write a file with an experiment whose loop has this body; returns its task."""

    def write(body="mine.train(run)", **options):
        source = tmp_path / "mine.py"
        arguments = ", ".join(f"{name}={value}" for name, value in options.items())
        source.write_text(
            "import torch\nfrom tests import loops as mine\ndef train(run):\n"
            + textwrap.indent(textwrap.dedent(body), "    ")
            + f"\ndef experiment():\n    return mine.experiment(train=train, {arguments})\n"
        )
        experiment, name = load_experiment(str(source))
        return task_of(experiment, name, None)

    return write


def worker_of(tmp_path, task, trial="t0000", config=CONFIG, **options):
    return TrialWorker(
        {"trial": trial, "train": config.to_dict()},
        task=task,
        place=str(tmp_path),
        resources=Resources(cpus=1),
        checkpoint_every=options.pop("checkpoint_every", 1),
        rungs=(),
        retries=1,
        **options,
    )


def to_the_end(one):
    results = []
    while not results or results[-1][OUTCOME] == "running":
        results.append(one.step())
        assert len(results) < 20
    return results


def timeless(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def undisturbed(config=CONFIG):
    trainer = LoopTrainer(train, config, [])
    while trainer.epoch < config.epochs:
        trainer.run_epoch()
    return trainer.history, trainer.final_state()


def loops_alive():
    return sum(thread.name == "loop" for thread in threading.enumerate())


def test_a_trial_equals_the_loop_alone(tmp_path, written):
    before = loops_alive()
    results = to_the_end(worker_of(tmp_path, written()))
    assert [result[OUTCOME] for result in results] == ["running"] * 3 + ["complete"]
    history, state = undisturbed()
    assert timeless(row for result in results for row in result[ROWS]) == timeless(history)
    kept = read_model(FileStore(tmp_path / "models"), "t0000")
    assert kept["config"] == CONFIG.replace(device="cpu").to_dict()
    assert kept["input_shape"] == [12]
    for part in ("model", "masks"):
        assert all(torch.equal(kept[part][name], state[part][name]) for name in state[part])
    assert loops_alive() == before


@pytest.mark.parametrize("done", [1, 3])
def test_another_process_continues_bit_for_bit(tmp_path, written, done):
    task = written()
    first = worker_of(tmp_path, task)
    for _ in range(done):
        first.step()
    first.close()
    results = to_the_end(worker_of(tmp_path, task))
    history, state = undisturbed()
    assert timeless(row for result in results for row in result[ROWS]) == timeless(history[done:])
    kept = read_model(FileStore(tmp_path / "models"), "t0000")
    assert all(torch.equal(kept["model"][name], state["model"][name]) for name in state["model"])


def test_a_worker_that_ends_saves_the_loop_between_two_epochs(tmp_path, written):
    before = loops_alive()
    first = worker_of(tmp_path, written(), checkpoint_every=100)
    first.step()
    first.close()
    assert loops_alive() == before
    names = sorted(path.name for path in (tmp_path / "trials/t0000").glob("checkpoint-*"))
    assert names == ["checkpoint-000001.pt"]


def test_a_worker_goes_on_with_another_trial(tmp_path, written):
    before = loops_alive()
    one = worker_of(tmp_path, written())
    one.step()
    other = CONFIG.replace(lr=0.02)
    one.begin({"trial": "t0001", "train": other.to_dict()})
    assert loops_alive() == before
    rows = [row for result in to_the_end(one) for row in result[ROWS]]
    assert timeless(rows) == timeless(undisturbed(other)[0])


def test_several_seeds(tmp_path, written):
    results = to_the_end(worker_of(tmp_path, written(), seeds=(3, 5)))
    row = results[-1][ROWS][-1]
    alone = [undisturbed(CONFIG.replace(seed=seed))[0][-1] for seed in (3, 5)]
    for name in ("val_loss", "val_accuracy", "sparsity"):
        assert [row[f"seed{seed}/{name}"] for seed in (3, 5)] == [one[name] for one in alone]
        assert row[name] == pytest.approx(sum(one[name] for one in alone) / 2)


def test_an_error_is_retried_from_the_checkpoint(tmp_path, written):
    task = written(f"""
        def fail_once():
            from pathlib import Path
            mark = Path({str(tmp_path / "failed")!r})
            if len(run.history) == 2 and not mark.exists():
                mark.touch()
                raise RuntimeError("a bad batch")
        report = run.report
        run.report = lambda **metrics: (fail_once(), report(**metrics))
        mine.train(run)
    """)
    results = to_the_end(worker_of(tmp_path, task))
    notes = [note for result in results for note in result[NOTES]]
    assert notes == ["RuntimeError: a bad batch; resumes from its checkpoint"]
    rows = [row for result in results for row in result[ROWS]]
    assert timeless(rows) == timeless(undisturbed()[0])


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("pass", "the loop returned without run.epochs(), before epoch 1 of 4 was done"),
        ("run.params['missing']", "run.params has no 'missing', only lr"),
        ("mine.train(run); raise ValueError('at the end')", "ValueError: at the end"),
        ("import sys; sys.exit(0)", "RuntimeError: the code called sys.exit(0)"),
        (
            "report = run.report\nrun.report = lambda **m: report(accuracy=1.0)\nmine.train(run)",
            "run.report: epoch 1 lacks the objective 'val_loss'; reported are accuracy",
        ),
        (
            "report = run.report\nrun.report = lambda **m: report(val_loss=1e999)\nmine.train(run)",
            "val_loss became inf in epoch 1",
        ),
    ],
)
def test_a_faulty_loop_fails_its_trial_in_one_line(tmp_path, written, body, reason):
    result = to_the_end(worker_of(tmp_path, written(body)))[-1]
    assert result[OUTCOME] == "failed"
    assert result[REASON].startswith(reason) and "\n" not in result[REASON]


def test_the_check_before_a_sweep_runs_the_loop_up_to_its_first_epoch(written):
    task = written("run.report = None\nmine.train(run)")
    assert isinstance(task, LoopTask)
    experiment, _ = load_experiment(task.source)
    config = sample(experiment)
    assert {"lr", "width"} == config.params.keys()
    task.check(config)
    with pytest.raises(InputError, match=r"mine.py:experiment: the training loop: .*no 'x'"):
        written("run.params['x']").check(config)
