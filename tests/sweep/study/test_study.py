"""The study: suggestions that depend on it alone, and states that survive."""

import contextlib
import dataclasses
import json
import os
import random
import resource
import shutil
import sys
import threading
import types
import uuid
from pathlib import Path

import optuna
import pytest

from rsas import InputError, TrainConfig
from rsas.errors import Halted
from rsas.pruning import effective_key
from rsas.sweep.audit.check import is_behind
from rsas.sweep.audit.rebuild import rebuild
from rsas.sweep.experiment import Budget, Experiment, Resources
from rsas.sweep.study import backend
from rsas.sweep.study.launch import Launch
from rsas.sweep.study.study import NotBegun, Rung, Study
from search_spaces.paper import paper
from tests.made import OBJECTIVES
from tests.servers import postgres


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


def run(open_, count, **options):
    """Run trials one at a time, opening the study anew for each, as after an interruption."""
    return [step(open_(experiment(**options))) for _ in range(count)]


def step(study):
    """Run a trial; returns its configuration."""
    number = study.begin()
    config = study.config(number)
    study.note_key(number, effective_key(config))
    study.complete(number, {**result(config), "epoch": 10.0}, device_seconds=3.0)
    return config


def begun(study):
    """Begin a trial and run its space, as the dispatcher does; returns its number."""
    number = study.begin()
    study.config(number)
    return number


def unfinished(study):
    return [trial.number for trial in study.trials(OBJECTIVES) if trial.state == "running"]


def device_seconds(study):
    """Of the trials that ended."""
    ended = [trial for trial in study.trials(OBJECTIVES) if trial.state != "running"]
    return sum(trial.device_seconds for trial in ended)


def entries(study):
    """All the study has of its trials, as JSON."""
    numbers = [int(trial.trial_id[1:]) for trial in study.trials(OBJECTIVES)]
    return {number: json.loads(json.dumps(study.to_dict(number))) for number in numbers}


def no_patience(monkeypatch):
    monkeypatch.setattr(backend, "PATIENCE", 0.0)


class Killed(BaseException):
    """The process ends here."""


def killed(*_, **__):
    raise Killed


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A database in which MLflow has been: its version is in a table that Optuna has, too."""
    with postgres(tmp_path_factory.mktemp("postgres")) as running:
        with running.connect() as connection:
            connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
            connection.execute("INSERT INTO alembic_version VALUES ('of MLflow')")
        yield running


@pytest.fixture(params=["file", pytest.param("database", marks=pytest.mark.resource)])
def open_study(request, tmp_path):
    """Opens one and the same study again and again; without an experiment only to be read."""
    if request.param == "file":
        return lambda experiment=None: Study(tmp_path / "study", experiment)
    url, name = request.getfixturevalue("server").url, uuid.uuid4().hex
    return lambda experiment=None: Study(url, experiment, name=name)


def in_folder(path):
    return lambda experiment=None: Study(path / "study", experiment)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "gp", "random"])
def test_a_study_opened_anew_suggests_what_an_open_one_would(sampler, tmp_path):
    whole = Study(tmp_path / "whole", experiment(sampler=sampler))
    expected = [step(whole) for _ in range(14)]
    assert run(in_folder(tmp_path), 14, sampler=sampler) == expected
    assert len(set(expected)) == 14  # no point twice: start-up points are not replayed


def test_suggestions_follow_the_seed(tmp_path):
    first, *others = [tmp_path / name for name in "abc"]
    for path in (first, *others):
        path.mkdir()
    expected = run(in_folder(first), 3)
    assert run(in_folder(others[0]), 3) == expected
    assert run(in_folder(others[1]), 3, seed=1) != expected


def test_the_sampler_learns(tmp_path):
    """Trials of TPE after its random ones are better than those of random search."""
    late = {}
    for name in ("tpe", "random"):
        (tmp_path / name).mkdir()
        configs = run(in_folder(tmp_path / name), 30, sampler=name)[15:]
        late[name] = sum(abs(config.measure_lr - 0.1) for config in configs) / 15
    assert late["tpe"] < late["random"]


def test_states(open_study):
    study = open_study(experiment())
    for _ in range(5):
        study.begin()
    study.complete(0, {"val_accuracy": 0.5, "sparsity": 0.9, "epoch": 3.0}, device_seconds=2.0)
    study.complete(1, {"val_accuracy": float("nan"), "sparsity": 0.9}, device_seconds=3.0)
    study.fail(2, "out of memory", device_seconds=5.0)
    study.prune(3, 1.0, device_seconds=7.0)
    trials = open_study().trials(OBJECTIVES)
    assert [t.state for t in trials] == ["complete", "failed", "failed", "pruned", "running"]
    assert trials[0].objectives == {"val_accuracy": 0.5, "sparsity": 0.9}
    assert trials[1].reason == "objectives are not finite: val_accuracy=nan, sparsity=0.9"
    assert trials[2].reason == "out of memory"
    assert trials[3].objectives == {}
    assert [t.epochs for t in trials] == [3.0, 0.0, 0.0, 1.0, 0.0]
    assert [t.device_seconds for t in trials] == [2.0, 3.0, 5.0, 7.0, 0.0]
    assert device_seconds(study) == 17.0
    assert unfinished(study) == [4]
    assert study.ended() == {"complete": 1, "pruned": 1, "failed": 2}
    assert trials[0].trial_id == "t0000"
    assert trials[0].finished >= trials[0].started
    assert trials[4].finished is None
    assert study.trial(3, OBJECTIVES) == trials[3]


def test_what_has_ended_stays_as_it_was(open_study):
    """A driver may tell twice, where the answer to the first time was lost."""
    study = open_study(experiment())
    study.complete(study.begin(), {"val_accuracy": 0.5, "sparsity": 0.9, "epoch": 3.0})
    before = entries(study)
    study.fail(0, "told again", device_seconds=1.0)
    study.prune(0, 1.0)
    assert entries(open_study()) == before


def test_an_end_that_was_half_told_did_not_happen(open_study, monkeypatch):
    """The reason and the time of a failure are written before its state."""
    study = open_study(experiment())
    study.begin()
    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "tell", killed)
        with pytest.raises(Killed):
            study.fail(0, "out of memory", device_seconds=5.0)
    after = open_study(experiment())
    assert device_seconds(after) == 0.0
    after.complete(0, {"val_accuracy": 0.5, "sparsity": 0.9}, device_seconds=8.0)
    (trial,) = after.trials(OBJECTIVES)
    assert (trial.state, trial.reason, trial.device_seconds) == ("complete", "", 8.0)


def test_a_configuration_that_is_complete_is_known_by_its_key(open_study):
    study = open_study(experiment())
    for _ in range(5):
        study.begin()
    assert [study.note_key(number, "one") for number in (0, 1)] == [None, None]  # they run
    study.prune(0, 1.0)
    assert study.note_key(2, "one") is None  # nobody knows what it would have come to
    seeds = {"seed0/val_accuracy": 0.4, "seed1/val_accuracy": 0.6, "seed1/val_loss": 1.0}
    metrics = {"val_accuracy": 0.5, "sparsity": 0.9, "epoch": 3.0, **seeds}
    study.complete(1, metrics, device_seconds=2.0)
    assert open_study(experiment()).note_key(2, "one") == 1
    assert study.note_key(3, "two") is None
    study.repeat(2, 1)
    repeated, original = open_study().trial(2, OBJECTIVES), study.trial(1, OBJECTIVES)
    assert (repeated.state, repeated.same_as) == ("complete", "t0001")
    assert (repeated.objectives, repeated.epochs) == (original.objectives, original.epochs)
    assert repeated.by_seed == original.by_seed == {k: seeds[k] for k in list(seeds)[:2]}
    assert repeated.device_seconds == 0.0
    assert study.ended()["complete"] == 2
    assert original.same_as == ""


def test_rungs_and_launches_and_the_record_are_kept(open_study):
    study = open_study(experiment())
    assert (study.rungs(), study.launches(), study.record()) == ([], [], None)
    for _ in range(2):
        study.begin()
    rungs = [
        Rung(0, 1, [0.25, 0.5], False),
        Rung(0, 3, [0.75, 0.5], True),
        Rung(1, 1, [0, 1], False),
    ]
    for rung in rungs[::-1]:
        study.note_rung(rung)
    study.prune(0, 3.0)
    launches = [Launch(began=float(index)) for index in range(11)]
    for index, launch in enumerate(launches):
        study.note_launch(index, launch)
    launches[1] = Launch(
        began=1.0, first=2.0, last=9.0, slot_seconds=14.0, trained=12.5, cut_off=3.5, failures=2
    )
    study.note_launch(1, launches[1])
    record = {"id": "x", "experiment": {"budget": {"trials": 30, "hours": None}}}
    study.note_record(record)
    after = open_study()
    assert sorted(after.rungs(), key=lambda rung: (rung.number, rung.rung)) == rungs
    assert after.launches() == launches
    assert after.record() == record


def test_points_are_handed_out_first_and_in_order(open_study, monkeypatch):
    """Also where the process ends between two of them, or when one is in Optuna's queue."""
    points = [{"sparsity": 0.6, "measure_lr": 0.5}, {"sparsity": 0.7}, {"measure_lr": 0.25}]
    open_study(experiment()).enqueue(points)
    numbers = [begun(open_study(experiment()))]
    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "ask", killed)
        with pytest.raises(Killed):
            open_study(experiment()).begin()
    between = open_study(experiment())
    assert len(between.trials(OBJECTIVES)) == 1  # nobody has begun what waits
    assert (unfinished(between), between.ended()["failed"]) == ([0], 0)
    between.fail(0, "it takes a turn all the same")
    numbers += [begun(open_study(experiment())) for _ in range(3)]
    study = open_study(experiment())
    configs = [study.config(number) for number in numbers]
    assert numbers == [0, 1, 2, 3]
    assert (configs[0].sparsity, configs[0].measure_lr) == (0.6, 0.5)
    assert (configs[1].sparsity, configs[2].measure_lr) == (0.7, 0.25)
    drawn = [configs[1].measure_lr, configs[2].sparsity, configs[3].sparsity, configs[3].measure_lr]
    assert not {0.6, 0.5, 0.7, 0.25} & set(drawn)
    assert len(study.trials(OBJECTIVES)) == 4


def test_known_trials_teach_the_sampler_and_are_no_trials(open_study, tmp_path, monkeypatch):
    other = Study(tmp_path / "other", experiment(sampler="random", seed=7))
    for _ in range(12):
        step(other)
    shutil.copy(tmp_path / "other", tmp_path / "own")
    other.prune(other.begin(), 1.0)
    other.fail(other.begin(), "out of memory")
    other.begin()
    real, added = optuna.Study.add_trial, []

    def add(study, trial):
        if len(added) == 5:
            killed()
        added.append(trial)
        real(study, trial)

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "add_trial", add)
        with pytest.raises(Killed):
            open_study(experiment()).add_known(other, "old")
    study = open_study(experiment())
    assert [study.add_known(other, "old") for _ in range(2)] == [12, 12]
    assert study.trials(OBJECTIVES) == []
    assert set(study.ended().values()) == {0}
    number = study.begin()
    assert number == 12  # each is there once
    # As if these results were its own, of which there are enough to learn from.
    own = Study(tmp_path / "own", experiment())
    assert study.config(number) == own.config(own.begin())
    # The files of that one are not here.
    assert study.note_key(number, effective_key(other.config(0))) is None
    study.fail(number, "not of interest")
    study.enqueue([{}, {"sparsity": 0.6, "measure_lr": 0.5}])
    assert study.config(study.begin()).sparsity == 0.6  # the second trial of the sweep


def test_a_trial_cut_off_while_it_was_asked_for_gets_the_rest_of_its_values(open_study):
    def cut(trial):
        trial.suggest_float("sparsity", 0.5, 0.99)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        step(open_study(experiment(space=cut)))
    study = open_study(experiment())
    assert unfinished(study) == [0]
    first = study.trials(OBJECTIVES)[0].params["sparsity"]
    config = study.config(0)
    assert config.sparsity == first
    assert study.config(0) == config
    assert set(study.trials(OBJECTIVES)[0].params) == {"sparsity", "measure_lr"}


def test_a_trial_goes_on_with_the_configuration_that_it_began_with(open_study):
    """Whatever the space returns now; the space is asked once."""
    asked = []

    def space(trial):
        asked.append(trial.number)
        width = trial.suggest_int("width", 10, 20)
        return {"hidden": [width, 2 * width], "layer_densities": {"fc1": width / 30}}

    def other(trial):
        return {"hidden": [trial.suggest_int("width", 10, 20)], "lr": 0.5}

    study = open_study(experiment(space=space))
    config = study.config(study.begin())
    width = study.trials(OBJECTIVES)[0].params["width"]
    expected = experiment().base.replace(
        hidden=(width, 2 * width), layer_densities={"fc1": width / 30}
    )
    assert config == expected
    assert asked == [0]
    assert open_study(experiment(space=other)).config(0) == expected
    fields = {"hidden": [width, 2 * width], "layer_densities": [["fc1", width / 30]]}
    assert open_study().fields(0) == fields


def test_a_space_that_ends_the_process_fails_its_trial(tmp_path):
    study = Study(tmp_path / "study", experiment(space=lambda trial: sys.exit(0)))
    with pytest.raises(RuntimeError, match=r"^the code called sys.exit\(0\)$"):
        study.config(study.begin())


def test_conditional_and_derived_fields(tmp_path):
    def space(trial):
        method = trial.suggest_categorical("method", ["static", "reinforced"])
        fields = {"method": method, "hidden": [trial.suggest_int("width", 10, 20)] * 2}
        if method == "reinforced":
            fields["measure_lr"] = trial.suggest_float("measure_lr", 0.1, 1.0)
        return fields

    study = Study(tmp_path / "study", experiment(space=space))
    configs = [study.config(study.begin()) for _ in range(10)]
    assert {config.method for config in configs} == {"static", "reinforced"}
    assert all(config.hidden[0] == config.hidden[1] for config in configs)


def test_a_line_that_was_cut_off_did_not_happen(tmp_path):
    path = tmp_path / "study"
    before = Study(path, experiment())
    before.complete(before.begin(), {"val_accuracy": 0.5, "sparsity": 0.9})
    with path.open("a") as file:
        file.write('{"op_code": 4, "worker')
    assert Study(path).trials(OBJECTIVES) == before.trials(OBJECTIVES)
    after = Study(path, experiment())
    after.complete(after.begin(), {"val_accuracy": 0.6, "sparsity": 0.9})
    assert [t.objectives["val_accuracy"] for t in Study(path).trials(OBJECTIVES)] == [0.5, 0.6]


def test_a_damaged_study_is_named(tmp_path):
    (tmp_path / "study").write_text("no journal\n{}\n")
    for options in ((), (experiment(),)):
        with pytest.raises(InputError, match="study: the study of the sweep cannot be read"):
            Study(tmp_path / "study", *options)


def test_a_study_that_cannot_be_written_halts_the_sweep(tmp_path, monkeypatch):
    study = Study(tmp_path / "study", experiment())

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Halted, match="^the study cannot be written .No space left on device.$"):
        study.begin()


def test_a_disk_that_is_full_for_a_moment_leaves_no_half_line(tmp_path):
    path = tmp_path / "study"
    study = Study(path, experiment())
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, limits[1]))
    try:
        with pytest.raises(Halted, match="^the study cannot be written .File too large.$"):
            study.enqueue([{"sparsity": 0.6}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    study.enqueue([{"sparsity": 0.7}])
    assert Study(path).queue() == study.queue() == [{"sparsity": 0.7}]


def test_a_database_that_is_away_is_asked_again_for_a_while(tmp_path, monkeypatch):
    study = Study(tmp_path / "study", experiment())
    real, answers = optuna.Study.get_trials, [False, False, True]

    def sometimes(study, **options):
        if answers and not answers.pop(0):
            raise optuna.exceptions.StorageInternalError("away")
        return real(study, **options)

    now = [0.0]
    clock = types.SimpleNamespace(
        monotonic=lambda: now[0], sleep=lambda seconds: now.__setitem__(0, now[0] + seconds)
    )
    monkeypatch.setattr(backend, "time", clock)
    monkeypatch.setattr(optuna.Study, "get_trials", sometimes)
    assert study.trials(OBJECTIVES) == []
    answers += [False] * 1000
    with pytest.raises(Halted, match="^the study's database does not answer .away.$"):
        study.trials(OBJECTIVES)
    assert 60 < now[0] < 70


# A damaged journal.

RECORD = {"id": "x", "experiment": {"name": "test"}}
LAUNCHES = [
    Launch(began=1.0, first=2.0, last=3.0, slot_seconds=2.0, trained=1.5),
    Launch(began=9.0),
]
QUEUE = [{"sparsity": 0.6}, {"sparsity": 0.7}]


def eventful(path):
    """A study with trials in all states, some begun beside each other."""
    study = Study(path, experiment())
    study.enqueue(QUEUE)
    study.note_record(RECORD)
    for index, launch in enumerate(LAUNCHES):
        study.note_launch(index, launch)
    for _ in range(11):
        step(study)
    first, second, third, fourth = [begun(study) for _ in range(4)]
    study.note_rung(Rung(first, 1, [0.25, 0.5], False))
    study.note_rung(Rung(first, 3, [0.25, 0.5], True))
    study.prune(first, 3.0, 1.5)
    study.fail(second, "out of memory", 2.5)
    study.repeat(third, 4)
    study.note_rung(Rung(fourth, 1, [0.75, 0.5], False))  # and it runs
    begun(study)
    return study


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An eventful study: its bytes, its trials, and what it suggests next."""
    path = tmp_path_factory.mktemp("whole") / "study.journal"
    study = eventful(path)
    content, kept = path.read_bytes(), entries(study)
    return types.SimpleNamespace(content=content, entries=kept, config=study.config(study.begin()))


def damages(content):
    """(how, what is left of a journal)."""
    rng = random.Random(0)
    for place in sorted(rng.sample(range(len(content)), 20)):
        yield f"cut at {place}", content[:place]
    for place in sorted(rng.sample(range(len(content)), 20)):
        flipped = bytes([content[place] ^ rng.choice([0xFF, 0x80])])
        yield f"flipped at {place}", content[:place] + flipped + content[place + 1 :]
    yield "cut behind a trial that waits", content[: content.index(b'{"op_code":6')]
    yield "emptied", b""
    yield "overwritten", b"\0" * len(content)


def test_a_damaged_study_is_made_anew_with_the_same_trials(whole, tmp_path):
    header = whole.content.index(b'{"op_code":4')  # the first trial
    for index, (how, damaged) in enumerate(damages(whole.content)):
        path = tmp_path / str(index) / "study.journal"
        path.parent.mkdir()
        path.write_bytes(damaged)
        lines = rebuild(path, whole.entries, experiment(), record=RECORD)
        assert lines == [
            f"{path} is damaged, kept aside as study.journal.damaged",
            "the study is rebuilt from 16 trials' records",
        ]
        assert path.with_name("study.journal.damaged").read_bytes() == damaged, how
        assert sorted(file.name for file in path.parent.iterdir()) == [
            "study.journal",
            "study.journal.damaged",
        ]
        study = Study(path, experiment())
        assert entries(study) == whole.entries, how
        if damaged[:header] == whole.content[:header]:
            assert (study.record(), study.launches()) == (RECORD, LAUNCHES), how
        assert study.config(study.begin()) == whole.config, how


def test_a_study_that_is_gone_is_made_of_the_records(whole, tmp_path):
    path = tmp_path / "study.journal"
    rebuild(path, whole.entries, experiment(), record=RECORD)
    assert entries(Study(path)) == whole.entries
    path.write_bytes(b"damaged again\n{}\n")
    path.with_name("study.journal.damaged").write_bytes(b"before")
    rebuild(path, whole.entries, experiment(), record=RECORD)
    assert path.with_name("study.journal.damaged").read_bytes() == b"before"
    assert path.with_name("study.journal.damaged1").read_bytes() == b"damaged again\n{}\n"
    assert entries(Study(path)) == whole.entries


def test_trials_of_which_nothing_is_known_have_failed(whole, tmp_path):
    path = tmp_path / "study.journal"
    kept = {n: entry for n, entry in whole.entries.items() if n not in (1, 7)}
    path.write_bytes(b"")
    lines = rebuild(path, kept, experiment(), record=RECORD)
    assert lines[2:] == ["all data of t0001, t0007 are lost: counted as failed"]
    study = Study(path)
    assert {n: entry for n, entry in entries(study).items() if n not in (1, 7)} == kept
    lost = [study.trial(number, OBJECTIVES) for number in (1, 7)]
    assert {(trial.state, trial.reason) for trial in lost} == {
        ("failed", "lost with the damaged study")
    }


def test_known_trials_that_are_lost_did_not_fail(tmp_path):
    other, path = Study(tmp_path / "other", experiment()), tmp_path / "study.journal"
    for _ in range(3):
        step(other)
    study = Study(path, experiment())
    study.add_known(other, "old")
    step(study)
    before = entries(study)
    path.unlink()
    rebuild(path, before, experiment())
    after = Study(path)
    assert entries(after) == before
    assert after.ended() == {"complete": 1, "pruned": 0, "failed": 0}


def test_of_study_and_record_the_newer_is_taken(whole, tmp_path):
    """A record is written after the study: where the study has an end, it has it from later on."""
    path = tmp_path / "study.journal"
    path.write_bytes(whole.content + b"damaged\n{}\n")
    older = {**whole.entries[3], "state": "RUNNING", "values": None, "finished": None}
    rebuild(path, {**whole.entries, 3: older}, experiment())
    assert entries(Study(path)) == whole.entries

    path.write_bytes(whole.content + b"damaged\n{}\n")
    running = max(whole.entries)
    newer = {
        **whole.entries[running],
        "state": "COMPLETE",
        "values": [0.5, 0.5],
        "finished": whole.entries[running]["started"] + 60.0,
    }
    rebuild(path, {running: newer}, experiment())
    assert entries(Study(path)) == {**whole.entries, running: newer}


def with_model(entry):
    """A record that names code, as somebody else may write it to a storage."""
    fields = {**entry["user_attrs"]["rsas:fields"], "model": "evil.py:net"}
    return {**entry, "user_attrs": {**entry["user_attrs"], "rsas:fields": fields}}


def test_fields_that_the_space_does_not_set_are_not_taken_from_records(whole, tmp_path):
    path = tmp_path / "study.journal"
    running = max(whole.entries)
    forged = {n: with_model(whole.entries[n]) for n in (0, running)}
    rebuild(path, {**whole.entries, **forged}, experiment())
    study = Study(path, experiment())
    assert study.fields(0) is None
    expected = experiment().base.replace(**whole.entries[running]["user_attrs"]["rsas:fields"])
    assert study.config(running) == expected
    assert all(study.fields(n) for n in whole.entries if n != 0)


def test_fields_in_the_whole_part_of_a_study_are_taken_whatever_the_space_sets_now(whole, tmp_path):
    path = tmp_path / "study.journal"
    path.write_bytes(whole.content + b"damaged\n{}\n")
    running = max(whole.entries)
    forged = {n: with_model(whole.entries[n]) for n in (0, running)}
    rebuild(path, {**whole.entries, **forged}, experiment(space=lambda trial: {"lr": 0.5}))
    assert entries(Study(path)) == whole.entries


def test_what_waited_in_the_queue_waits_on(tmp_path, monkeypatch):
    path = tmp_path / "study.journal"
    study = Study(path, experiment())
    study.enqueue([*QUEUE, {"sparsity": 0.8}])
    study.begin()
    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "ask", killed)
        with pytest.raises(Killed):
            study.begin()
    kept = entries(study)
    with path.open("ab") as file:
        file.write(b"damaged\n{}\n")
    rebuild(path, kept, experiment())
    after = Study(path, experiment())
    assert after.config(after.begin()).sparsity == 0.7
    assert after.config(after.begin()).sparsity == 0.8
    assert len(after.trials(OBJECTIVES)) == 3


def test_a_rebuild_that_is_killed_can_be_done_again(whole, tmp_path, monkeypatch):
    path = tmp_path / "study.journal"
    path.write_bytes(whole.content + b"damaged\n{}\n")
    real = Path.replace
    for count in range(2):  # renamed before the process ends
        left = [real] * count

        def replace(self, target, left=left):
            return left.pop()(self, target) if left else killed()

        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            patch.setattr(Path, "replace", replace)
            rebuild(path, whole.entries, experiment(), record=RECORD)
    rebuild(path, whole.entries, experiment(), record=RECORD)
    study = Study(path)
    assert entries(study) == whole.entries
    assert (study.record(), study.launches()) == (RECORD, LAUNCHES)


def test_a_rung_that_was_noted_after_the_record_is_kept(whole, tmp_path):
    path = tmp_path / "study.journal"
    path.write_bytes(whole.content + b"damaged\n{}\n")
    judged = max(n for n, entry in whole.entries.items() if "rsas:rung:1" in entry["user_attrs"])
    older = {**whole.entries[judged], "user_attrs": {}}
    rebuild(path, {judged: older}, experiment())
    assert entries(Study(path)) == whole.entries


def test_a_study_is_behind_when_a_record_knows_more(tmp_path):
    study = Study(tmp_path / "study", experiment())
    for _ in range(2):
        study.begin()
    running = entries(study)
    study.fail(1, "out of memory")
    ended = entries(study)
    assert not is_behind(study, {})
    assert not is_behind(study, running)  # a record may be older
    assert not is_behind(study, ended)
    assert is_behind(study, {0: {**running[0], "state": "COMPLETE"}})
    assert is_behind(study, {0: {**running[0], "state": "PRUNED"}})
    assert is_behind(study, {2: {**running[1], "number": 2}})


def test_a_study_is_behind_whenever_its_end_is_gone(whole, tmp_path):
    """Whole lines that are gone leave a study that can be read."""
    lines = whole.content.splitlines(keepends=True)
    for count in range(1, len(lines) + 1):
        path = tmp_path / str(count)
        path.write_bytes(b"".join(lines[:count]))
        study = Study(path, experiment())
        assert is_behind(study, whole.entries) == (entries(study) != whole.entries), lines[count]


def test_a_last_line_that_is_damaged_is_noticed_before_more_is_written(whole, tmp_path):
    path = tmp_path / "study"
    path.write_bytes(whole.content[:-2] + b'"\n')  # and it still ends as a line
    with pytest.raises(InputError, match="the study of the sweep cannot be read"):
        Study(path, experiment())


# A database.


def test_a_database_suggests_what_a_file_would_also_when_it_restarts(server, tmp_path, monkeypatch):
    no_patience(monkeypatch)  # it answers: it needs no second try
    expected = run(in_folder(tmp_path), 13)
    study, found = Study(server.url, experiment(), name="restarted"), []
    for index in range(13):
        if index == 4:
            server.restart()
        if index == 8:
            server.restart("immediate")  # as after a crash
            study = Study(server.url, experiment(), name="restarted")
        found.append(step(study))
    assert found == expected
    there = Study(server.url, name="restarted").trials(OBJECTIVES)
    assert [trial.state for trial in there] == ["complete"] * 13


def test_a_database_that_restarts_is_waited_for(server):
    study = Study(server.url, experiment(), name="patient")
    server.stop()
    again = threading.Timer(0.5, server.start)
    again.start()
    try:
        step(study)
    finally:
        again.join()
    assert study.ended()["complete"] == 1


def test_a_database_that_stays_away(server, monkeypatch):
    study = Study(server.url, experiment(), name="away")
    no_patience(monkeypatch)
    password = server.url.split("@")[0].rsplit(":", 1)[1]
    server.stop()
    try:
        with pytest.raises(Halted, match="the study's database does not answer") as halted:
            study.begin()
        with pytest.raises(InputError, match="the study of the sweep cannot be read") as refused:
            Study(server.url, experiment(), name="away")
    finally:
        server.start()
    for caught in (halted, refused):
        assert password not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_database_that_mlflow_uses_too(server):
    """Both have a table of the name alembic_version, with revisions the other does not know."""
    Study(server.url, experiment(), name="beside MLflow").begin()
    with server.connect() as connection:
        rows = connection.execute("SELECT * FROM public.alembic_version").fetchall()
        found = connection.execute(
            "SELECT schemaname, tablename FROM pg_tables WHERE tablename IN "
            "('alembic_version', 'studies', 'trials') ORDER BY 1, 2"
        ).fetchall()
    assert rows == [("of MLflow",)]
    assert found == [("public", "alembic_version")] + [
        ("rsas_study", name) for name in ("alembic_version", "studies", "trials")
    ]


def test_studies_in_a_database_are_apart_until_deleted(server):
    first, second = (Study(server.url, experiment(), name=name) for name in ("one", "two"))
    step(first)
    assert second.trials(OBJECTIVES) == []
    first.delete()
    with pytest.raises(NotBegun, match="there is no study 'one'"):
        Study(server.url, name="one")
    assert Study(server.url, name="two").trials(OBJECTIVES) == []


def test_points_that_are_enqueued_leave_the_rest_of_their_axes_to_seeds_of_their_own(tmp_path):
    """Or the next trial would be a copy of them, and one that a kill cut short another one."""
    study = Study(tmp_path / "study", experiment(sampler="random"))
    study.enqueue([{"measure_lr": 0.1}])
    first, second = (study.config(study.begin()) for _ in range(2))
    assert first.measure_lr == 0.1 and first.sparsity != second.sparsity
    killed_study = Study(tmp_path / "killed", experiment(sampler="random"))
    killed_study.enqueue([{"measure_lr": 0.1}])
    killed_study.optuna_study.enqueue_trial({"measure_lr": 0.1})
    killed_study.optuna_study.ask()  # and its space was not asked any more
    assert killed_study.config(0) == first


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


def test_limits_are_numbers_or_none():
    budget = Budget(hours=2, device_hours=None)
    assert (budget.hours, budget.device_hours) == (2.0, None)
    assert isinstance(budget.hours, float)
    again = Experiment.from_dict(dataclasses.replace(experiment(), budget=budget).to_dict(), paper)
    assert again.budget == budget
    for hours in (0, -1.0, 2e9, float("nan"), float("inf"), "2", True):
        with pytest.raises(InputError, match=r"hours=.*: expected a number in \(0, 1e\+09\]"):
            Budget(hours=hours)
    for count in (0, 1.5, True, "2"):
        with pytest.raises(InputError, match=r"max_concurrent=.*: expected an integer in \[1, "):
            Resources(max_concurrent=count)
    with pytest.raises(InputError, match="trials=None: expected an integer"):
        Budget(trials=None)
