"""Training loops of users: what they report, how they resume, and what they forget."""

import random
import threading
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import rsas
from rsas.config import LoopConfig
from rsas.errors import InputError, NonFiniteLoss
from rsas.loop_trainer import LoopTrainer
from rsas.sweep.files.file_store import FileStore
from rsas.sweep.files.trial_dir import TrialDir
from tests.loops import EPOCHS, data, train

PRUNING = rsas.Pruning(method="rigl", sparsity=0.8, update_interval=4)
CONFIG = LoopConfig(**PRUNING.to_dict(), epochs=EPOCHS, params={"lr": 0.01})


def zeros(state):
    weights = [state["0.weight"], state["3.weight"]]
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


def trained(trainer, epochs):
    while trainer.epoch < epochs:
        trainer.run_epoch()
    return trainer


def same(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


def without_seconds(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def test_a_run_in_a_script():
    rows = []
    result = rsas.run(train, {"lr": 0.01}, epochs=EPOCHS, pruning=PRUNING, on_epoch=rows.append)
    assert result.history["epoch"].tolist() == [1, 2, 3, 4]
    assert result.history.to_dict("records") == [
        {**row, "epoch": int(row["epoch"])} for row in rows
    ]
    masks = [m.weight_mask for m in result.model if isinstance(m, nn.Linear)]
    off = 1 - sum(mask.sum() for mask in masks) / sum(mask.numel() for mask in masks)
    assert result.history["sparsity"].iloc[-1] == pytest.approx(float(off), abs=1e-6)
    assert result.history["sparsity/0"].iloc[-1] == pytest.approx(0.8, abs=0.01)
    assert result.history["churn"].iloc[0] > 0
    with torch.no_grad():
        x, y = data()
        accuracy = (result.model(x[40:]).argmax(1) == y[40:]).float().mean()
    assert result.history["val_accuracy"].iloc[-1] == pytest.approx(float(accuracy))


def test_the_trainer_equals_a_run_in_a_script():
    result = rsas.run(train, {"lr": 0.01}, epochs=EPOCHS, pruning=PRUNING)
    trainer = trained(LoopTrainer(train, CONFIG, ["val_loss"]), EPOCHS)
    rows = result.history.drop(columns="seconds").to_dict("records")
    assert without_seconds(trainer.history) == rows
    state = trainer.final_state()
    assert zeros(state["model"]) == rows[-1]["sparsity"]
    assert state["input_shape"] == [12] and state["epoch"] == EPOCHS


@pytest.mark.parametrize("at", [1, 2, EPOCHS])
def test_resumed_from_a_checkpoint_it_equals_the_undisturbed_run(at, tmp_path):
    whole = trained(LoopTrainer(train, CONFIG, []), EPOCHS)
    first = trained(LoopTrainer(train, CONFIG, []), at)
    folder = TrialDir(FileStore(tmp_path))
    folder.begin()
    folder.save(at, first.state_dict())  # as a file, which holds plain types and tensors only
    first.close()
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    second = LoopTrainer(train, CONFIG, [])
    state, damaged = folder.load(second.device)
    assert not damaged
    second.load_state_dict(state)
    assert second.epoch == at
    trained(second, EPOCHS)
    assert without_seconds(second.history) == without_seconds(whole.history)
    assert same(second.final_state()["model"], whole.final_state()["model"])


def test_two_runs_in_turns_do_not_disturb_each_other():
    alone = trained(LoopTrainer(train, CONFIG, []), EPOCHS)
    one, other = (LoopTrainer(train, CONFIG.replace(seed=s), []) for s in (0, 1))
    for _ in range(EPOCHS):
        one.run_epoch()
        other.run_epoch()
    assert without_seconds(one.history) == without_seconds(alone.history)
    assert without_seconds(other.history) != without_seconds(alone.history)


def test_the_generators_of_the_caller_stay_as_they_are():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.random(), torch.rand(1)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    rsas.run(train, {"lr": 0.01}, epochs=1, pruning=PRUNING)
    assert (random.random(), np.random.random(), torch.rand(1)) == expected


def test_a_stopped_loop_ends_its_thread():
    cleaned = []

    def loop(run):
        try:
            train(run)
        except Exception:  # catches errors, not the end of the trial
            cleaned.append("caught")
        finally:
            cleaned.append("done")

    before = threading.active_count()
    trainer = LoopTrainer(loop, CONFIG, [])
    trainer.run_epoch()
    assert threading.active_count() == before + 1
    trainer.close()
    assert cleaned == ["done"]
    assert threading.active_count() == before


def test_dense_training_needs_no_sparsifier():
    def loop(run):
        model = nn.Linear(2, 2)
        run.track(model=model)
        for _ in run.epochs():
            run.report(score=1)

    history = rsas.run(loop, epochs=2, pruning=rsas.Pruning(method="dense")).history
    assert history["sparsity"].tolist() == [0.0, 0.0]


class Faulty:
    """The loop of tests/loops.py with one mistake."""

    def __init__(self, mistake):
        self.mistake = mistake

    def __call__(self, run):
        makes = self.mistake.__eq__
        if makes("no epochs"):
            return
        model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        if not makes("no sparsify"):
            sparsifier = run.sparsify(
                model, optimizer, steps_per_epoch=0 if makes("0 steps") else 2
            )
        if makes("sparsify twice"):
            run.sparsify(model, optimizer, steps_per_epoch=2)
        if makes("tracks a lambda"):
            run.track(optimizer=lambda: 1)
        if makes("tracks a set"):
            run.track(mine=State({1, 2}))
        if makes("tracks two"):
            run.track(model=nn.Linear(1, 1))
        if makes("other model"):
            run.track(model=nn.Sequential(nn.Linear(12, 16)))
        elif not makes("no track"):
            run.track(model=model, optimizer=optimizer)
        x, y = data()
        for epoch in run.epochs():
            if makes("tracks late"):
                run.track(x=optimizer)
            if makes("changes the model"):
                model[2] = nn.Linear(16, 3)
            for _ in range(3 if makes("3 steps") else 1 if makes("1 step") else 2):
                loss = nn.functional.cross_entropy(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                if not makes("no observe"):
                    sparsifier.observe(float(loss) if makes("float loss") else loss)
                optimizer.step()
                if not (makes("no step") or makes("no observe and step")):
                    sparsifier.step()
                if makes("no observe and step"):
                    sparsifier._observed = None
            value = torch.zeros(2) if makes("two numbers") else "x" if makes("text") else 0.5
            name = "val_los" if makes("wrong name") else "val_loss"
            value = float("nan") if makes("nan") else value
            if not makes("no report"):
                run.report(**{name: value})
            if makes("reports twice"):
                run.report(**{name: value})
            if makes("reserved"):
                run.report(sparsity=0.5)
            if makes("breaks") and epoch == 1:
                break
            if makes("returns"):
                return
            if makes("unmasked"):
                with torch.no_grad():
                    model[0].weight.fill_(1.0)
        if makes("epochs twice"):
            list(run.epochs())
        if makes("late report"):
            run.report(val_loss=1)
        if makes("exit"):
            raise SystemExit(3)


class State:
    def __init__(self, value):
        self.value = value

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


MISTAKES = {
    "no epochs": "the loop returned without run.epochs(), before epoch 1 of 3",
    "no sparsify": "call run.sparsify first, as method='reinforced' prunes",
    "sparsify twice": "run.sparsify: called twice",
    "0 steps": "steps_per_epoch=0: expected at least 1",
    "tracks a lambda": "optimizer is a function; expected an object with state_dict",
    "tracks a set": "the state of mine holds a set; expected numbers, texts, tensors",
    "tracks two": "'model' names two objects",
    "tracks late": "run.track: call it before run.epochs()",
    "no track": "run.track: name the network and all else that a resume needs",
    "other model": "layers of 'model' are not those that run.sparsify was given",
    "changes the model": "epoch 1: the layers of 'model' are not those that run.sparsify was given",
    "3 steps": "sparsifier.step() was called 3 times, but run.sparsify has steps_per_epoch=2",
    "1 step": "sparsifier.step() was called 1 times, but run.sparsify has steps_per_epoch=2",
    "no observe": "observe(loss) was not called for step 0 of epoch 0",
    "float loss": "expected a tensor of one number",
    "no step": "step() was not called after step 0 of epoch 0",
    "two numbers": "val_loss=tensor([0., 0.]): expected a number",
    "text": "val_loss='x': expected a number",
    "wrong name": "epoch 1 lacks the objective 'val_loss'; reported are val_los",
    "nan": "val_loss became nan in epoch 1",
    "no report": "epoch 1 ended without run.report()",
    "reports twice": "called twice in epoch 1",
    "reserved": "rsas measures 'sparsity' itself",
    "breaks": "the loop returned before epoch 2 of 3 was done",
    "returns": "the loop returned before epoch 1 of 3 was done",
    "unmasked": "of its weights are off but not zero",
    "epochs twice": "run.epochs: called twice",
    "late report": "call it within 'for epoch in run.epochs()'",
    "exit": "the code called sys.exit(3)",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_one_line(mistake):
    config = LoopConfig(epochs=3)
    trainer = LoopTrainer(Faulty(mistake), config, ["val_loss"])
    if mistake == "reserved":
        trainer = LoopTrainer(partial(_reports_sparsity), config, [])
    with pytest.raises((InputError, NonFiniteLoss, RuntimeError)) as caught:
        trained(trainer, 3).final_state()
    assert MISTAKES[mistake] in str(caught.value)
    assert "\n" not in str(caught.value)
    trainer.close()


def _reports_sparsity(run):
    model = nn.Linear(4, 4)
    run.sparsify(model, torch.optim.SGD(model.parameters(), lr=0.1), steps_per_epoch=1)
    run.track(model=model)
    for _ in run.epochs():
        run.report(sparsity=0.5)


def test_a_missing_parameter_is_named():
    with pytest.raises(InputError, match=r"run.params has no 'lr', only width; .*--set lr=VALUE"):
        rsas.run(train, {"width": 8}, epochs=1)


def test_a_break_in_the_last_epoch_ends_the_run():
    def loop(run):
        model = nn.Linear(2, 2)
        run.track(model=model)
        for epoch in run.epochs():
            run.report(score=epoch)
            if epoch == 1:
                break

    history = rsas.run(loop, epochs=2, pruning=rsas.Pruning(method="dense")).history
    assert history["score"].tolist() == [0.0, 1.0]


def test_a_checkpoint_of_another_loop_is_refused():
    def other(run):
        model = nn.Linear(3, 3)
        run.sparsify(model, torch.optim.SGD(model.parameters(), lr=0.1), steps_per_epoch=1)
        run.track(model=model)
        for _ in run.epochs():
            run.report(val_loss=1.0)

    first = trained(LoopTrainer(train, CONFIG, []), 1)
    trainer = LoopTrainer(other, CONFIG, [])
    trainer.load_state_dict(first.state_dict())
    with pytest.raises(InputError, match="the checkpoint has .*, but the loop tracks"):
        trainer.run_epoch()
    first.close()
