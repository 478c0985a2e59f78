"""The book: suggestions that depend on it alone, and states that survive."""

import dataclasses

import pytest

from rsas import InputError, TrainConfig
from rsas.records import Objective
from rsas.search.book import Book
from rsas.search.experiment import Budget, Experiment
from search_spaces.paper import paper

OBJECTIVES = (Objective("val_accuracy", "max", worst=0.1), Objective("sparsity", "max", worst=0.0))


def experiment(space=paper, sampler="tpe", seed=0):
    return Experiment(
        name="test",
        base=TrainConfig(),
        space=space,
        objectives=OBJECTIVES,
        budget=Budget(trials=30),
        sampler=sampler,
        seed=seed,
    )


def result(config):
    """A made-up trade-off with a best measure-learning-rate."""
    accuracy = 1 - config.sparsity**4 - abs(config.measure_lr - 0.1)
    return {"val_accuracy": accuracy, "sparsity": config.sparsity}


def run(path, count, **options):
    """Run trials one at a time, opening the book anew for each, as after an interruption."""
    configs = []
    for _ in range(count):
        book = Book(path, experiment(**options))
        number = book.begin()
        configs.append(book.config(number))
        book.complete(number, result(configs[-1]))
    return configs


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "gp", "random"])
def test_a_book_opened_anew_suggests_what_an_open_one_would(sampler, tmp_path):
    whole = Book(tmp_path / "whole", experiment(sampler=sampler))
    expected = []
    for _ in range(14):
        number = whole.begin()
        expected.append(whole.config(number))
        whole.complete(number, result(expected[-1]))
    assert run(tmp_path / "parts", 14, sampler=sampler) == expected
    assert len(set(expected)) == 14  # no point twice: start-up points are not replayed


def test_suggestions_follow_the_seed(tmp_path):
    assert run(tmp_path / "a", 3) == run(tmp_path / "b", 3)
    assert run(tmp_path / "a", 3) != run(tmp_path / "c", 3, seed=1)


def test_the_sampler_learns(tmp_path):
    """Trials of TPE after its random ones are better than those of random search."""
    late = {}
    for sampler in ("tpe", "random"):
        configs = run(tmp_path / sampler, 30, sampler=sampler)[15:]
        late[sampler] = sum(abs(config.measure_lr - 0.1) for config in configs) / 15
    assert late["tpe"] < late["random"]


def test_states(tmp_path):
    book = Book(tmp_path / "book", experiment())
    for _ in range(4):
        book.begin()
    book.complete(0, {"val_accuracy": 0.5, "sparsity": 0.9, "epoch": 3.0})
    book.complete(1, {"val_accuracy": float("nan"), "sparsity": 0.9})
    book.fail(2, "out of memory")
    trials = Book(tmp_path / "book").trials(OBJECTIVES)
    assert [t.state for t in trials] == ["complete", "failed", "failed", "running"]
    assert trials[0].objectives == {"val_accuracy": 0.5, "sparsity": 0.9}
    assert trials[1].reason == "objectives are not finite: val_accuracy=nan, sparsity=0.9"
    assert trials[2].reason == "out of memory"
    assert book.unfinished() == [3]
    assert book.ended() == {"complete": 1, "pruned": 0, "failed": 2}
    assert trials[0].trial_id == "t0000"
    assert trials[0].finished >= trials[0].started
    assert trials[3].finished is None


def test_a_trial_cut_off_while_it_was_asked_for_gets_the_rest_of_its_values(tmp_path):
    def killed(trial):
        trial.suggest_float("sparsity", 0.5, 0.99)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Book(tmp_path / "book", experiment(space=killed)).begin()
    book = Book(tmp_path / "book", experiment())
    assert book.unfinished() == [0]
    first = book.trials(OBJECTIVES)[0].params["sparsity"]
    config = book.config(0)
    assert config.sparsity == first
    assert book.config(0) == config
    assert set(book.trials(OBJECTIVES)[0].params) == {"sparsity", "measure_lr"}


def test_conditional_and_derived_fields(tmp_path):
    def space(trial):
        method = trial.suggest_categorical("method", ["static", "reinforced"])
        fields = {"method": method, "hidden": [trial.suggest_int("width", 10, 20)] * 2}
        if method == "reinforced":
            fields["measure_lr"] = trial.suggest_float("measure_lr", 0.1, 1.0)
        return fields

    book = Book(tmp_path / "book", experiment(space=space))
    configs = [book.config(book.begin()) for _ in range(10)]
    assert {config.method for config in configs} == {"static", "reinforced"}
    assert all(config.hidden[0] == config.hidden[1] for config in configs)


def test_a_line_that_was_cut_off_did_not_happen(tmp_path):
    path = tmp_path / "book"
    before = Book(path, experiment())
    before.complete(before.begin(), {"val_accuracy": 0.5, "sparsity": 0.9})
    with path.open("a") as file:
        file.write('{"op_code": 4, "worker')
    assert Book(path).trials(OBJECTIVES) == before.trials(OBJECTIVES)
    after = Book(path, experiment())
    after.complete(after.begin(), {"val_accuracy": 0.6, "sparsity": 0.9})
    assert [t.objectives["val_accuracy"] for t in Book(path).trials(OBJECTIVES)] == [0.5, 0.6]


def test_a_lock_left_by_a_kill_does_not_hold_up(tmp_path):
    import time

    Book(tmp_path / "book", experiment())
    (tmp_path / "book.lock").symlink_to(tmp_path / "book")
    start = time.monotonic()
    Book(tmp_path / "book", experiment()).begin()
    assert time.monotonic() - start < 10  # Optuna would wait 30 seconds


def test_a_damaged_book_is_named(tmp_path):
    (tmp_path / "book").write_text("no journal\n{}\n")
    for options in ((), (experiment(),)):
        with pytest.raises(InputError, match="book: the book of the sweep cannot be read"):
            Book(tmp_path / "book", *options)


def test_experiment_round_trip():
    first = dataclasses.replace(experiment(sampler="gp", seed=4), checkpoint_every=3, retries=0)
    again = Experiment.from_dict(first.to_dict(), paper)
    assert again == first
    assert first.to_dict()["space"] == "search_spaces.paper:paper"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "a/b"}, "name 'a/b': expected up to 100 letters"),
        ({"sampler": "annealing"}, "sampler='annealing': expected one of tpe"),
        ({"objectives": ()}, "expected at least one"),
        ({"objectives": OBJECTIVES[:1] * 2}, "each once"),
        ({"base": TrainConfig(val_fraction=0.0)}, "objectives are measured on a validation split"),
        ({"checkpoint_every": 0}, "checkpoint_every=0: expected an integer"),
        ({"budget": 16}, "budget=16: expected a Budget"),
        ({"space": 3}, "space=3: expected a function"),
    ],
)
def test_experiments_that_cannot_be(changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(experiment(), **changes)
