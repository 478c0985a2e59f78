"""What is handed out and stopped, and what the study is told, without Ray's cluster."""

import contextlib
import pickle
import types
from itertools import pairwise

import pytest
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from rsas import TrainConfig
from rsas.errors import Halted
from rsas.follower import Follower
from rsas.sweep.execute.dispatcher import FINISHED, Dispatcher
from rsas.sweep.execute.tune import (
    DispatchingSearcher,
    LimitStopper,
    RungScheduler,
    StartCallback,
)
from rsas.sweep.execute.worker import NOTES, OUTCOME, REASON, ROWS
from rsas.sweep.experiment import Budget, Experiment, Resources
from rsas.sweep.files.trial_dir import History, TrialDir
from rsas.sweep.study.frozen import to_record
from rsas.sweep.study.launch import Launch
from rsas.sweep.study.study import Rung, Study
from rsas.sweep.suggest.halving import Halving
from search_spaces.paper import paper
from tests.leaks import LEAKS
from tests.made import OBJECTIVES

EPOCHS = 10  # of a whole training


def row(epoch, accuracy=0.8):
    return {
        "epoch": float(epoch),
        "train_loss": 0.5,
        "val_loss": 0.5,
        "val_accuracy": accuracy,
        "sparsity": 0.9,
        "seconds": 2.0,
    }


def result(first, last=None, accuracy=0.8, **others):
    """What a trainable tells after these epochs, with what Tune adds."""
    last = last or first
    rows = [row(epoch, accuracy) for epoch in range(first, last + 1)]
    outcome = "complete" if last == EPOCHS else "running"
    own = {ROWS: rows, NOTES: [], OUTCOME: outcome, REASON: ""}
    return own | {"pid": 1, "training_iteration": last} | others


GOOD = result(1, EPOCHS)


class Desk(Follower):
    """A searcher with its study and a log of what it told; ``trained`` is what trials' files have.

    Trials come to rungs after 1 and 3 epochs; one in three goes on, by the accuracy alone.
    """

    def __init__(
        self,
        path,
        *,
        slots=2,
        halving=False,
        before=0.0,
        space=paper,
        base=None,
        devices=1.0,
        trained=None,
        **budget,
    ):
        experiment = Experiment(
            name="test",
            base=base or TrainConfig(epochs=EPOCHS),
            space=space,
            objectives=OBJECTIVES,
            budget=Budget(**{"trials": 3, "failures": 2} | budget),
            resources=Resources(cpus=4.0, gpus=devices),
        )
        self.path, self.slots, self.now = path, slots, 1000.0
        self.log, self.ticks = [], 0
        self.trained = {} if trained is None else trained
        self.study = Study(path, experiment)
        self.dispatcher = Dispatcher(
            self.study,
            experiment,
            halving=Halving(OBJECTIVES[:1], epochs=EPOCHS, first=1, reduction=3)
            if halving
            else None,
            slots=lambda: self.slots,
            hours=before,
            follower=self,
            history=lambda number: self.history(number),
            clock=lambda: self.now,
        )
        self.suggest = self.dispatcher.suggest
        self.judge = self.dispatcher.judge
        self.watch = self.dispatcher.watch
        self.complete = self.dispatcher.end

    def history(self, number):
        rows = self.trained.get(number, [])
        return History(list(rows), len(rows), sum(each["seconds"] for each in rows))

    def begin(self, trial):
        self.log.append(("begin", trial.number))

    def rows(self, number, rows):
        self.log.append(("rows", number, [each["epoch"] for each in rows]))

    def change(self, number):
        kept = [rung.rung for rung in Study(self.path).rungs() if rung.number == number]
        self.log.append(("change", number, kept))

    def end(self, trial, trials):
        assert trials == self.study.trials(OBJECTIVES)
        assert trial == trials[trial.number]
        self.log.append(("end", trial.number, trial.state))

    def note(self, line):
        self.log.append(("note", line))

    def cut_off(self, device_seconds):
        self.log.append(("cut off", device_seconds))

    def tick(self):
        self.ticks += 1

    def start(self, name):
        """The study hands out a trial, and Tune begins it."""
        config = self.suggest(name)
        self.dispatcher.start(name)
        return config["trial"]

    def device_seconds(self):
        return sum(t.device_seconds for t in self.study.trials(OBJECTIVES) if t.state != "running")

    def states(self):
        return [t.state for t in self.study.trials(OBJECTIVES)]

    def run(self, name, found):
        """What Tune does with a result; returns whether the trial ended with it."""
        ends = found[OUTCOME] != "running" or self.judge(name, found)
        if ends:
            self.complete(name, found)
        else:
            self.dispatcher.report(name, found)
        return ends


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path / "study")


def test_as_many_as_slots_until_the_study_is_full(desk):
    suggest, complete = desk.suggest, desk.complete
    desk.slots = 1
    first = suggest("a")
    assert suggest("b") is None
    desk.slots = 2  # a node came
    second = suggest("b")
    assert (first["trial"], second["trial"]) == ("t0000", "t0001")
    assert TrainConfig.from_dict(first["train"]) == desk.study.config(0)
    assert suggest("c") is None  # both slots are taken
    complete("a", GOOD)
    assert suggest("c")["trial"] == "t0002"
    complete("b", GOOD)
    assert suggest("d") is None  # the third and last one runs
    complete("c", GOOD)
    assert suggest("d") == FINISHED
    assert desk.states() == ["complete"] * 3
    assert desk.device_seconds() == 3 * EPOCHS * 2.0


def test_a_full_study_is_full_when_all_nodes_are_gone(tmp_path):
    desk = Desk(tmp_path / "study", trials=1)
    desk.suggest("a")
    desk.complete("a", GOOD)
    desk.slots = 0
    assert desk.suggest("b") == FINISHED


def test_an_end_reads_one_trial_of_the_study_however_many_there_are(tmp_path, monkeypatch):
    desk = Desk(tmp_path / "study", trials=20)
    monkeypatch.setattr(desk, "end", lambda trial, trials: ends.append((len(trials), len(read))))
    ends, read = [], []

    def counted(trial, objectives):
        read.append(trial.number)
        return to_record(trial, objectives)

    monkeypatch.setattr("rsas.sweep.study.study.to_record", counted)
    for number in range(20):
        desk.start(str(number))
        desk.run(str(number), GOOD)
    assert [trials for trials, _ in ends] == list(range(1, 21))
    # At the begin and at the end of each trial, this trial alone.
    assert read == [number for number in range(20) for _ in ("begin", "end")]


def test_followers_hear_every_row_once(desk):
    """Tune gives the last result again when it ends a trial."""
    desk.suggest("a")
    desk.dispatcher.report("a", result(1, 9, notes=["an error; goes on"]))
    desk.complete("a", result(10))
    desk.suggest("b")
    desk.dispatcher.report("b", result(1, 4))
    desk.complete("b", result(1, 4), died=True)
    assert desk.log == [
        ("begin", 0),
        ("note", "t0000: an error; goes on"),
        ("rows", 0, [float(epoch) for epoch in range(1, 10)]),
        ("rows", 0, [10.0]),
        ("end", 0, "complete"),
        ("begin", 1),
        ("rows", 1, [1.0, 2.0, 3.0, 4.0]),
        ("end", 1, "failed"),
    ]
    assert [t.device_seconds for t in desk.study.trials(OBJECTIVES)] == [20.0, 8.0]


def test_another_process_counts_its_results_from_the_beginning(desk):
    """Tune begins a trial again whose process died: same iteration, another process."""
    desk.suggest("a")
    desk.dispatcher.report("a", result(1, 3, training_iteration=1))
    desk.dispatcher.report("a", result(3, 4, training_iteration=1, pid=2))
    assert [epochs for _, _, epochs in desk.log[1:]] == [[1.0, 2.0, 3.0], [3.0, 4.0]]


def test_trials_nobody_runs_come_first(tmp_path):
    before = Desk(tmp_path / "study")
    expected = [before.suggest(name) for name in "ab"]
    before.complete("a", GOOD)
    after = Desk(tmp_path / "study")  # as after a kill: b was running
    assert after.suggest("x") == expected[1]
    assert after.suggest("y")["trial"] == "t0002"
    assert after.suggest("z") is None


def test_failures_take_no_place_but_too_many_end_the_sweep(desk):
    suggest, complete = desk.suggest, desk.complete
    suggest("a"), suggest("b")
    complete("a", died=True)
    assert desk.study.trials(OBJECTIVES)[0].reason == "the process that ran it died"
    assert suggest("c")["trial"] == "t0002"
    complete("b", result(1, 2) | {OUTCOME: "failed", REASON: "the loss was lost"})
    assert desk.study.trials(OBJECTIVES)[1].reason == "the loss was lost"
    assert desk.device_seconds() == 4.0
    assert suggest("d") is None  # the limit is reached; the one that runs may finish
    complete("c", GOOD)
    assert suggest("d") == FINISHED
    assert desk.states() == ["failed", "failed", "complete"]


def test_a_resumed_sweep_may_fail_as_often_again(tmp_path):
    before = Desk(tmp_path / "study", failures=1)
    before.suggest("a")
    before.complete("a", died=True)
    assert before.suggest("b") == FINISHED
    after = Desk(tmp_path / "study", failures=1)
    assert after.suggest("b")["trial"] == "t0001"


def test_a_trial_that_was_cut_short_is_not_told_as_complete(desk):
    desk.suggest("a")
    desk.complete("a", result(1, 4))
    assert desk.states() == ["running"]  # a resumed sweep goes on with it
    assert desk.log[-1] == ("rows", 0, [1.0, 2.0, 3.0, 4.0])


def test_a_space_that_raises_fails_the_trial_and_not_the_sweep(tmp_path):
    def rarely(trial):
        if trial.number == 1:
            raise KeyError("width")
        return {"sparsity": trial.suggest_float("sparsity", 0.1, 0.9)}

    desk = Desk(tmp_path / "study", space=rarely)
    assert desk.suggest("a")["trial"] == "t0000"
    assert desk.suggest("b")["trial"] == "t0002"
    assert desk.states() == ["running", "failed", "running"]
    assert desk.study.trials(OBJECTIVES)[1].reason == "the search space: KeyError: 'width'"
    assert desk.log == [("begin", 0), ("begin", 1), ("end", 1, "failed"), ("begin", 2)]


# Rungs.


def test_a_trial_that_is_beaten_is_stopped_and_takes_a_place(tmp_path):
    desk = Desk(tmp_path / "study", halving=True)
    for name, accuracy in (("a", 0.9), ("b", 0.8)):
        desk.suggest(name)
        assert not desk.run(name, result(1, accuracy=accuracy))  # too few to compare
    desk.complete("b", died=True)
    desk.suggest("c")
    desk.log.clear()
    assert desk.run("c", result(1, 2, accuracy=0.5))
    assert desk.log == [
        ("change", 2, [1]),  # after the study knew
        ("rows", 2, [1.0, 2.0]),
        ("end", 2, "pruned"),
    ]
    stopped = desk.study.trial(2, OBJECTIVES)
    assert (stopped.epochs, stopped.device_seconds, stopped.objectives) == (2.0, 4.0, {})
    assert not desk.run("a", result(2, accuracy=0.9))
    desk.complete("a", result(3, 10, accuracy=0.9))
    assert desk.suggest("d")["trial"] == "t0003"
    assert desk.run("d", result(1, accuracy=0.1))
    assert desk.suggest("e") == FINISHED  # one complete and two stopped are three
    assert desk.study.ended() == {"complete": 1, "pruned": 2, "failed": 1}
    # The last result asks for no verdict: the rung of 3 epochs was reached in it.
    assert [(r.number, r.rung, r.values, r.stops) for r in desk.study.rungs()] == [
        (0, 1, [0.9], False),
        (1, 1, [0.8], False),
        (2, 1, [0.5], True),
        (3, 1, [0.1], True),
    ]


def note_rivals(desk, *, epochs=1):
    """Two trials that have ended and were better there than any to come."""
    for _ in range(2):
        number = desk.study.begin()
        desk.study.note_rung(Rung(number, epochs, [0.9], False))
        desk.study.fail(number, "not of interest")


def test_a_decision_outlives_the_process_that_made_it(tmp_path):
    note_rivals(Desk(tmp_path / "study"))
    before = Desk(tmp_path / "study", halving=True)
    before.suggest("a")
    assert before.judge("a", result(1, accuracy=0.1))  # and then the process is killed
    after = Desk(
        tmp_path / "study", halving=True, devices=2.0, trained={2: [row(1, 0.1), row(2, 0.95)]}
    )
    assert after.suggest("a")["trial"] == "t0003"
    assert after.log == [("begin", 2), ("end", 2, "pruned"), ("begin", 3)]
    stopped = after.study.trial(2, OBJECTIVES)
    assert (stopped.epochs, stopped.device_seconds) == (1.0, 8.0)


def test_a_decision_that_was_not_kept_is_not_acted_upon(tmp_path, monkeypatch):
    note_rivals(Desk(tmp_path / "study"))
    desk = Desk(tmp_path / "study", halving=True)
    desk.suggest("a")

    def full(_):
        raise Halted("the disk is full")

    monkeypatch.setattr(desk.study, "note_rung", full)
    assert desk.run("a", result(1, accuracy=0.1))
    assert desk.states() == ["failed", "failed", "running"]  # not stopped for good
    assert desk.dispatcher.halted == "the disk is full"


def test_a_rung_at_which_nobody_judged_is_judged_before_a_trial_goes_on(tmp_path):
    before = Desk(tmp_path / "study")
    note_rivals(before)
    before.suggest("a")  # came to the rung, and the process was killed
    after = Desk(tmp_path / "study", halving=True, trained={2: [row(1, 0.1), row(2, 0.95)]})
    assert after.suggest("a")["trial"] == "t0003"
    assert after.log[1] == ("change", 2, [1])
    assert after.states()[2] == "pruned"

    good = Desk(tmp_path / "study", halving=True, trained={3: [row(1, 0.95), row(2, 0.1)]})
    assert good.suggest("a")["trial"] == "t0003"
    assert [rung.stops for rung in good.study.rungs() if rung.number == 3] == [False]


def test_rows_that_a_dead_process_did_not_tell_are_read_from_its_history(tmp_path):
    desk = Desk(tmp_path / "study", halving=True)
    desk.suggest("a")
    desk.trained[0] = [row(epoch, 0.1 * epoch) for epoch in range(1, 6)]
    assert not desk.judge("a", result(4, 5, accuracy=0.1 * 4))
    assert [(rung.rung, rung.values) for rung in desk.study.rungs()] == [(1, [0.1]), (3, [0.1 * 3])]


def test_a_rung_of_which_nothing_is_left_is_passed_over(tmp_path):
    desk = Desk(tmp_path / "study", halving=True)
    desk.suggest("a")
    assert not desk.judge("a", result(3, 5))
    assert [rung.rung for rung in desk.study.rungs()] == [3]


def accuracy_of(number, epoch):
    """A made-up curve of each trial; they cross."""
    end = (number * 7 % 10 + 1) / 11
    return end * (1 - 0.5 ** (epoch / (1 + number % 4)))


def drive(path, interrupt):
    """A sweep of 12 trials, one after the other, whose driver dies at every so many results."""
    trained, told = {}, 0
    while True:
        desk = Desk(path, slots=1, halving=True, trials=12, trained=trained)
        killed = False
        while not killed:
            found = desk.suggest("a")
            if found == FINISHED:
                return Study(path)
            number = int(found["trial"][1:])
            rows = trained.setdefault(number, [])
            ended = False
            while not ended and not killed:
                first = min(len(rows) + 1, EPOCHS)  # a whole training tells its last row again
                last = next(epoch for epoch in (1, 3, 6, 9, 10) if epoch >= first)
                new = [row(e, accuracy_of(number, e)) for e in range(first, last + 1)]
                rows += new[: EPOCHS - len(rows)]  # the file has them before the driver does
                told += 1
                killed = interrupt and told % interrupt == 0
                if not killed:
                    ended = desk.run("a", result(first, last) | {ROWS: new})


def summary(study):
    trials = study.trials(OBJECTIVES)
    return [(t.trial_id, t.state, t.objectives, t.params) for t in trials], study.rungs()


def test_a_sweep_that_is_interrupted_decides_like_one_that_is_not(tmp_path):
    trials, rungs = summary(drive(tmp_path / "whole", 0))
    assert {state for _, state, *_ in trials} == {"complete", "pruned"}
    assert {rung.rung for rung in rungs} == {1, 3}
    assert len(trials) == 12
    for interrupt in (2, 3, 7):
        assert summary(drive(tmp_path / str(interrupt), interrupt)) == (trials, rungs)


def test_the_scheduler_of_tune_asks_the_searcher(desk, monkeypatch):
    asked = []
    monkeypatch.setattr(
        desk.dispatcher, "judge", lambda *args: asked.append(args) or len(asked) > 1
    )
    scheduler = RungScheduler(desk.dispatcher)
    trial = types.SimpleNamespace(trial_id="a")
    found = [scheduler.on_trial_result(None, trial, each) for each in (result(1), result(2))]
    assert found == [TrialScheduler.CONTINUE, TrialScheduler.STOP]
    assert asked == [("a", result(1)), ("a", result(2))]


# What stops a sweep.


def test_a_trial_that_halts_halts_the_sweep(desk):
    desk.suggest("a"), desk.suggest("b")
    desk.complete("a", result(1, 2) | {OUTCOME: "halted", REASON: "the disk is full"})
    assert desk.dispatcher.halted == "the disk is full"
    assert desk.suggest("c") is None  # b runs yet
    assert desk.run("b", result(1))  # and is stopped, but not for good
    assert desk.states() == ["running", "running"]
    assert desk.suggest("c") == FINISHED
    assert [each for each in desk.log if each[0] == "end"] == []


@pytest.mark.parametrize("kind", [Halted, pytest.param(OSError)])
@pytest.mark.parametrize("call", ["suggest", "judge"])
def test_a_history_that_cannot_be_read_halts_the_sweep(call, kind, tmp_path):
    def away(_):
        raise kind("the storage does not answer")

    Desk(tmp_path / "study", halving=True).suggest("a")
    desk = Desk(tmp_path / "study", halving=True)
    if call == "suggest":
        desk.history = away
        assert desk.suggest("a") == FINISHED
    else:
        desk.suggest("a")
        desk.history = away
        assert desk.judge("a", result(2))
    assert desk.dispatcher.halted == "the storage does not answer"


@pytest.mark.parametrize(
    "method",
    ["begin", "config", "note_key", "note_rung", "repeat", "fail", "prune", "complete", "trial"],
)
def test_a_study_that_cannot_be_written_halts_and_nothing_is_raised_into_tune(
    method, tmp_path, monkeypatch
):
    def two(trial):
        return {"sparsity": [0.5, 0.6, 0.5, 1.5, 0.7][trial.number]}  # one twice, one impossible

    desk = Desk(tmp_path / "study", halving=True, trials=9, space=two)

    def full(*_):
        raise Halted("no space left")

    monkeypatch.setattr(desk.study, method, full)
    running, finished = {}, False
    for turn in range(40):
        name = f"trial {turn}"
        found = desk.suggest(name)
        if finished := found == FINISHED:
            break
        if found is not None:
            running[name] = 0
        for other in list(running):
            running[other] += 1
            accuracy = 0.1 if turn > 1 else 0.9
            if turn == 12:
                desk.complete(other, died=True)
                del running[other]
            elif desk.run(other, result(running[other], accuracy=accuracy)):
                del running[other]
    assert finished
    assert desk.dispatcher.halted == "no space left"
    assert running == {}


def test_hours_are_those_of_all_launches(tmp_path):
    desk = Desk(tmp_path / "study", hours=2.0, before=1.5)
    desk.suggest("a"), desk.suggest("b")
    desk.now += 1799
    assert not desk.run("a", result(1))
    desk.now += 1
    assert desk.suggest("c") is None
    assert desk.run("a", result(2))
    desk.complete("b", GOOD)  # came to its end all the same
    assert desk.suggest("c") == FINISHED
    assert desk.states() == ["running", "complete"]
    assert desk.dispatcher.halted == ""
    extended = Desk(tmp_path / "study", hours=3.0, before=2.0)
    assert extended.suggest("x")["trial"] == "t0000"


def test_device_hours_are_seconds_times_devices(tmp_path):
    # 72 device-seconds; an epoch takes two seconds of two GPUs.
    desk = Desk(tmp_path / "study", device_hours=0.02, devices=2.0)
    desk.suggest("a"), desk.suggest("b")
    desk.complete("a", GOOD)  # 40
    assert not desk.run("b", result(1, 7))  # 28
    assert desk.suggest("c")["trial"] == "t0002"
    assert not desk.run("c", result(1))  # 4, and it is all used up
    assert desk.suggest("d") is None
    assert desk.run("b", result(8))
    assert desk.suggest("d") is None  # what b took is not given back
    assert desk.run("c", result(2))
    assert desk.suggest("d") == FINISHED
    assert desk.states() == ["complete", "running", "running"]

    trained = {1: [row(e) for e in range(1, 9)], 2: [row(1), row(2)]}
    resumed = Desk(tmp_path / "study", device_hours=0.026, devices=2.0, trained=trained)  # 93.6
    assert resumed.suggest("x")["trial"] == "t0001"  # 40 + 32
    assert resumed.suggest("y")["trial"] == "t0002"  # + 8
    resumed.dispatcher.report("y", result(3, 4))  # + 8
    assert not resumed.judge("x", result(9))
    resumed.dispatcher.report("y", result(5, 6))  # + 8
    assert resumed.judge("x", result(9))
    resumed.complete("x", result(9, 10))
    assert resumed.study.trial(1, OBJECTIVES).device_seconds == 2 * 20.0


def cut_off(desk):
    """The device-seconds that each trial lost that was cut off, and the message on that."""
    return [(event[1], note[1]) for event, note in pairwise(desk.log) if event[0] == "cut off"]


def test_a_trial_that_hangs_is_cut_off_after_the_hours_and_the_overtime(tmp_path):
    desk = Desk(tmp_path / "study", hours=1.0, overtime=30.0, devices=2.0)
    desk.start("a"), desk.start("b")
    desk.now += 3590
    assert not desk.run("b", result(1))
    assert not desk.watch()
    desk.now += 10
    assert not desk.watch()
    desk.now += 29
    assert desk.run("b", result(2))  # answers in time: stopped in the usual way
    assert not desk.watch()
    assert cut_off(desk) == []
    desk.now += 1
    assert desk.watch() and desk.watch()
    line = (
        "did not answer for 30 s after the limit of 1 hours; its process is ended, and "
        "'rsas extend' resumes from its last checkpoint"
    )
    assert cut_off(desk) == [(2 * 3630.0, f"t0000: {line}")]
    assert desk.states() == ["running", "running"]  # for an extension; nobody failed
    assert desk.ticks == 5


def test_overtime_is_twice_the_slowest_epoch_where_that_is_longer(tmp_path):
    desk = Desk(tmp_path / "study", hours=1.0, overtime=30.0)
    desk.start("a")
    assert not desk.run("a", {**result(1), ROWS: [row(1) | {"seconds": 20.0}, row(2)]})
    desk.now += 3600
    assert not desk.watch()
    desk.now += 39
    assert not desk.watch()
    desk.now += 1
    assert desk.watch()


def test_device_hours_pass_while_a_trial_does_not_report(tmp_path):
    # 72 device-seconds, two a second.
    desk = Desk(tmp_path / "study", device_hours=0.02, overtime=5.0, devices=2.0)
    desk.suggest("a")
    desk.now += 1000  # without a process
    assert not desk.watch()
    desk.dispatcher.start("a")
    desk.now += 20
    assert not desk.run("a", result(1, 2))  # 8: what was trained counts, not what it waited
    desk.now += 31
    assert not desk.watch()  # 70
    assert desk.start("b") == "t0001"
    desk.now += 1
    assert not desk.watch()  # 74
    assert desk.suggest("c") is None
    desk.now += 4
    assert not desk.run("a", result(3, 7))  # 28 and 10
    assert not desk.watch()  # within the limit after all
    desk.now += 21
    assert not desk.watch()  # 28 + 42 and 52: from here on, overtime
    assert not desk.judge("b", result(1))  # 28 + 42: b is just reporting
    desk.now += 1
    assert desk.run("b", result(1))  # 28 + 44
    desk.now += 3.5
    assert not desk.watch()
    desk.now += 0.5
    assert desk.watch()
    ((seconds, line),) = cut_off(desk)
    assert seconds == 2 * 26.0
    assert line.startswith("t0000: ") and "after the limit of 0.02 device-hours; " in line


def test_what_was_cut_off_counts_in_later_launches(tmp_path):
    desk = Desk(tmp_path / "study", device_hours=0.02)
    desk.start("a")
    desk.study.note_launch(0, Launch(began=0.0, cut_off=40.0))
    desk.study.note_launch(1, Launch(began=0.0, cut_off=31.0))
    assert Desk(tmp_path / "study", device_hours=0.02).suggest("x")["trial"] == "t0000"
    desk.study.note_launch(1, Launch(began=0.0, cut_off=32.0))
    assert Desk(tmp_path / "study", device_hours=0.02).suggest("x") == FINISHED


def test_a_sweep_that_halts_does_not_wait_for_a_trial_that_hangs(tmp_path):
    desk = Desk(tmp_path / "study", overtime=5.0)
    desk.start("a"), desk.start("b")
    desk.now += 10**6
    assert not desk.watch()  # without a limit trials may take their time
    desk.complete("a", result(1) | {OUTCOME: "halted", REASON: "the disk is full"})
    assert not desk.watch()
    desk.now += 5
    assert desk.watch()
    ((_, line),) = cut_off(desk)
    assert line.startswith("t0001: ")
    assert "5 s after the sweep had to stop; " in line and "'rsas resume'" in line


def test_nothing_is_cut_off_where_nothing_runs(tmp_path):
    desk = Desk(tmp_path / "study", hours=1.0, overtime=0.0)
    desk.now += 3600
    assert not desk.watch()
    assert desk.suggest("a") == FINISHED


def test_tune_asks_the_searcher_at_each_step_and_tells_when_a_trial_starts(tmp_path):
    desk = Desk(tmp_path / "study", hours=1.0, overtime=0.0)
    desk.suggest("a")
    trial = types.SimpleNamespace(trial_id="a")
    stopper = LimitStopper(desk.dispatcher)
    StartCallback(desk.dispatcher).on_trial_start(1, [trial], trial)
    desk.now += 3599
    assert not stopper.stop_all()
    desk.now += 1
    assert not stopper("a", result(1))  # the scheduler's matter
    assert stopper.stop_all()
    assert [seconds for seconds, _ in cut_off(desk)] == [3600.0]
    assert isinstance(pickle.loads(pickle.dumps(stopper)), LimitStopper)


# Repetitions.


def test_a_configuration_that_is_complete_is_not_trained_again(tmp_path):
    """Also where a field that does nothing differs."""

    def space(trial):
        trial.suggest_float("measure_lr", 0.1, 1.0)
        return {
            "method": "static",
            "measure_lr": trial.params["measure_lr"],
            "sparsity": [0.5, 0.5, 0.5, 0.6][trial.number],
        }

    desk = Desk(tmp_path / "study", trials=4, space=space)
    assert [desk.suggest(name)["trial"] for name in "ab"] == ["t0000", "t0001"]  # beside each other
    desk.complete("a", died=True)
    desk.complete("b", GOOD)
    desk.log.clear()
    assert desk.suggest("c")["trial"] == "t0003"
    assert desk.log == [("begin", 2), ("end", 2, "complete"), ("begin", 3)]
    trials = desk.study.trials(OBJECTIVES)
    assert (trials[2].same_as, trials[2].objectives) == ("t0001", trials[1].objectives)
    assert trials[2].params != trials[1].params
    assert (trials[2].epochs, trials[2].device_seconds) == (10.0, 0.0)
    desk.complete("c", GOOD)
    assert desk.device_seconds() == 40.0
    assert desk.study.ended() == {"complete": 3, "pruned": 0, "failed": 1}


def test_a_repetition_that_was_cut_off_is_none_the_more_trained(tmp_path, monkeypatch):
    desk = Desk(tmp_path / "study", space=lambda trial: {"sparsity": 0.5})
    desk.suggest("a")
    desk.complete("a", GOOD)
    monkeypatch.setattr(desk.study, "repeat", lambda *_: 1 / 0)  # the process is killed
    with contextlib.suppress(ZeroDivisionError):
        desk.suggest("b")
    after = Desk(tmp_path / "study", space=lambda trial: {"sparsity": 0.5})
    assert after.states() == ["complete", "running"]
    assert after.suggest("b") == FINISHED
    assert [t.same_as for t in after.study.trials(OBJECTIVES)] == ["", "t0000", "t0000"]


def test_tune_can_pickle_its_searcher(desk):
    searcher = DispatchingSearcher(desk.dispatcher)
    assert isinstance(pickle.loads(pickle.dumps(searcher)), DispatchingSearcher)


def test_the_searcher_of_tune_asks_the_dispatcher(desk):
    """Tune's own word for the end is the dispatcher's."""
    searcher = DispatchingSearcher(desk.dispatcher)
    assert FINISHED == Searcher.FINISHED
    assert [searcher.suggest(key)["trial"] for key in "ab"] == ["t0000", "t0001"]
    searcher.on_trial_result("a", result(1))
    searcher.on_trial_complete("a", GOOD)
    searcher.on_trial_complete("b", error=True)
    assert desk.states() == ["complete", "failed"]


@pytest.mark.parametrize("leak", LEAKS, ids=lambda leak: leak.name)
def test_no_secret_is_in_the_study(leak, tmp_path, monkeypatch):
    """Of the space, nor of a worker that lacks the driver's environment and so hid nothing."""

    def space(trial):
        if trial.number == 0:
            raise RuntimeError(leak.text)
        return paper(trial)

    for name, value in leak.environment.items():
        monkeypatch.setenv(name, value)
    desk = Desk(tmp_path / "study", space=space, failures=9)
    desk.suggest("a")
    desk.complete("a", result(1, 2, **{OUTCOME: "failed", REASON: leak.text}))
    trials = [desk.study.trial(number, OBJECTIVES) for number in range(2)]
    assert [trial.state for trial in trials] == ["failed", "failed"]
    assert all("***" in trial.reason for trial in trials)
    kept = b"".join(TrialDir.record_bytes(desk.study.to_dict(number)) for number in range(2))
    written = [kept.decode(), desk.path.read_text(), *(trial.reason for trial in trials)]
    assert not any(secret in text for text in written for secret in leak.hidden)
