"""One trial as Tune drives it, in this process."""

import json

import torch

from rsas import TrainConfig, Trainer, data
from rsas.search.experiment import Resources
from rsas.search.trainable import FAILED, TrialTrainable

CONFIG = TrainConfig(hidden=(20,), epochs=5, batch_size=100, update_interval=5)


def trainable(tmp_path, trial="t0000", config=CONFIG, **options):
    defaults = {"resources": Resources(cpus=1), "checkpoint_every": 2}
    made = object.__new__(TrialTrainable)
    made.setup(
        {"trial": trial, "train": config.to_dict()},
        arrays=data.load("digits"),
        trials=tmp_path,
        **(defaults | options),
    )
    return made


def undisturbed(config=CONFIG):
    trainer = Trainer(config, data.load("digits"))
    while trainer.epoch < config.epochs:
        trainer.run_epoch()
    return [{k: v for k, v in row.items() if k != "seconds"} for row in trainer.history]


def without_time(result):
    return {k: v for k, v in result.items() if k not in ("seconds", "done")}


def test_an_epoch_a_step_until_it_is_done(tmp_path):
    one = trainable(tmp_path)
    results = [one.step() for _ in range(5)]
    assert [result["done"] for result in results] == [False] * 4 + [True]
    assert [without_time(result) for result in results] == undisturbed()


def test_goes_on_from_the_last_checkpoint_in_another_process(tmp_path):
    first = trainable(tmp_path)
    for _ in range(3):
        first.step()
    second = trainable(tmp_path)  # the checkpoint is of epoch 2: epoch 3 is trained again
    results = [second.step() for _ in range(3)]
    assert [without_time(result) for result in results] == undisturbed()[2:]
    lines = (tmp_path / "t0000" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 3, 4, 5]


def test_a_finished_trial_that_is_begun_again_trains_nothing(tmp_path):
    first = trainable(tmp_path)
    last = [first.step() for _ in range(5)][-1]
    assert trainable(tmp_path).step() == last
    assert len((tmp_path / "t0000" / "history.jsonl").read_text().splitlines()) == 5


def test_an_actor_is_reused_for_another_trial(tmp_path):
    one = trainable(tmp_path)
    one.step()
    other = CONFIG.replace(sparsity=0.5)
    assert one.reset_config({"trial": "t0001", "train": other.to_dict()})
    assert without_time(one.step()) == undisturbed(other)[0]
    assert {path.name for path in tmp_path.iterdir()} == {"t0000", "t0001"}


def test_an_error_that_would_come_again_is_a_result(tmp_path):
    result = trainable(tmp_path, config=CONFIG.replace(model="nothing:net")).step()
    assert result["done"]
    assert "cannot import 'nothing'" in result[FAILED]


def test_threads_follow_the_cpus(tmp_path):
    trainable(tmp_path, resources=Resources(cpus=2.0))
    assert torch.get_num_threads() == 2
    trainable(tmp_path, resources=Resources(cpus=0.5))
    assert torch.get_num_threads() == 1
