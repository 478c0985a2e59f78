"""What is handed out, and what the book is told, without Ray's cluster."""

import pytest
from ray.tune.search import Searcher

from rsas import TrainConfig
from rsas.records import Objective
from rsas.search.book import Book
from rsas.search.experiment import Budget, Experiment
from rsas.search.searcher import BookSearcher
from rsas.search.trainable import FAILED
from search_spaces.paper import paper

OBJECTIVES = (Objective("val_accuracy", "max", 0.1), Objective("sparsity", "max", 0.0))
GOOD = {"epoch": 10, "val_accuracy": 0.8, "sparsity": 0.9, "time_total_s": 3.0, "done": True}


class Desk:
    """A searcher with its book, and a log of what it told."""

    def __init__(self, path, *, trials=3, failures=2, slots=2, space=paper):
        experiment = Experiment(
            name="test",
            base=TrainConfig(),
            space=space,
            objectives=OBJECTIVES,
            budget=Budget(trials=trials, failures=failures),
        )
        self.log = []
        self.book = Book(path, experiment)
        self.searcher = BookSearcher(
            self.book,
            experiment.budget,
            slots=slots,
            on_begin=lambda number: self.log.append(("begin", number)),
            on_row=lambda number, row: self.log.append(("row", number, row["epoch"])),
            on_end=lambda number: self.log.append(("end", number)),
            reason=lambda number: f"reason of {number}",
        )

    def states(self):
        return [t.state for t in self.book.trials(OBJECTIVES)]


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path / "book")


def test_as_many_as_slots_until_the_book_is_full(desk):
    suggest, complete = desk.searcher.suggest, desk.searcher.on_trial_complete
    first, second = suggest("a"), suggest("b")
    assert (first["trial"], second["trial"]) == ("t0000", "t0001")
    assert TrainConfig.from_dict(first["train"]) == desk.book.config(0)
    assert suggest("c") is None  # both slots are taken
    complete("a", GOOD)
    assert suggest("c")["trial"] == "t0002"
    complete("b", GOOD)
    assert suggest("d") is None  # the third and last one runs
    complete("c", GOOD)
    assert suggest("d") == Searcher.FINISHED
    assert desk.states() == ["complete"] * 3


def test_listeners_hear_every_row_once(desk):
    desk.searcher.suggest("a")
    desk.searcher.on_trial_result("a", {**GOOD, "epoch": 9})
    desk.searcher.on_trial_complete("a", GOOD)
    assert desk.log == [("begin", 0), ("row", 0, 9.0), ("row", 0, 10.0), ("end", 0)]


def test_trials_nobody_runs_come_first(tmp_path):
    before = Desk(tmp_path / "book")
    expected = [before.searcher.suggest(name) for name in "ab"]
    before.searcher.on_trial_complete("a", GOOD)
    after = Desk(tmp_path / "book")  # as after a kill: b was running
    assert after.searcher.suggest("x") == expected[1]
    assert after.searcher.suggest("y")["trial"] == "t0002"
    assert after.searcher.suggest("z") is None


def test_failures_take_no_place_but_too_many_end_the_sweep(desk):
    suggest, complete = desk.searcher.suggest, desk.searcher.on_trial_complete
    suggest("a"), suggest("b")
    complete("a", error=True)
    assert desk.book.trials(OBJECTIVES)[0].reason == "reason of 0"
    assert suggest("c")["trial"] == "t0002"
    complete("b", {FAILED: "the loss was lost", "done": True})
    assert desk.book.trials(OBJECTIVES)[1].reason == "the loss was lost"
    assert suggest("d") is None  # the limit is reached; the one that runs may finish
    complete("c", GOOD)
    assert suggest("d") == Searcher.FINISHED
    assert desk.states() == ["failed", "failed", "complete"]


def test_a_resumed_sweep_may_fail_as_often_again(tmp_path):
    before = Desk(tmp_path / "book", failures=1)
    before.searcher.suggest("a")
    before.searcher.on_trial_complete("a", error=True)
    assert before.searcher.suggest("b") == Searcher.FINISHED
    after = Desk(tmp_path / "book", failures=1)
    assert after.searcher.suggest("b")["trial"] == "t0001"


def test_a_trial_that_was_cut_short_is_not_told_as_complete(desk):
    desk.searcher.suggest("a")
    desk.searcher.on_trial_complete("a", {**GOOD, "epoch": 4})
    assert desk.states() == ["running"]  # a resumed sweep goes on with it
    assert ("end", 0) not in desk.log


def test_a_space_that_raises_fails_the_trial_and_not_the_sweep(tmp_path):
    def rarely(trial):
        if trial.number == 1:
            raise KeyError("width")
        return {"sparsity": trial.suggest_float("sparsity", 0.1, 0.9)}

    desk = Desk(tmp_path / "book", space=rarely)
    assert desk.searcher.suggest("a")["trial"] == "t0000"
    assert desk.searcher.suggest("b")["trial"] == "t0002"
    assert desk.states() == ["running", "failed", "running"]
    assert desk.book.trials(OBJECTIVES)[1].reason == "the search space: KeyError: 'width'"
