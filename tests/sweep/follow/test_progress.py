"""What a running sweep shows."""

import dataclasses
import io
import types

from rich.console import Console

from rsas.records import TrialRecord
from rsas.sweep.follow.progress import SweepProgress, front_table
from tests.made import OBJECTIVES


def trial(number, accuracy=0.0, sparsity=0.0, state="complete", reason="", **others):
    return TrialRecord(
        trial_id=f"t{number:04d}",
        state=state,
        params={"sparsity": sparsity + 0.01, "measure_lr": 0.1},
        objectives={"val_accuracy": accuracy, "sparsity": sparsity} if state == "complete" else {},
        started=0.0,
        finished=1.0,
        reason=reason,
        **others,
    )


def display(*, terminal, trials=()):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=200, color_system=None)
    return SweepProgress(
        console,
        name="first",
        asked=4,
        epochs=10,
        objectives=OBJECTIVES,
        trials=list(trials),
    ), console


def shown(renderable):
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(renderable)
    return console.file.getvalue()


def set_clock(monkeypatch):
    """A clock that stands still but where the test moves it."""
    now = types.SimpleNamespace(seconds=100.0)
    monkeypatch.setattr("rsas.sweep.follow.progress.time.monotonic", lambda: now.seconds)
    return now


def test_live_table_has_progress_running_trials_and_the_front():
    live, _ = display(terminal=True, trials=[trial(0, 0.9, 0.5), trial(1, 0.8, 0.4)])
    live.begin(trial(2, state="running"))
    live.begin(trial(3, state="running"))
    live.rows(2, [{"epoch": 4.0}, {"epoch": 5.0, "val_accuracy": 0.61, "sparsity": 0.7}])
    text = shown(live._render())
    assert "first: 2 of 4 trials done, 2 running, hypervolume 0.4000, about 0:00:00 left" in text
    assert "t0002 epoch 5/10, val_accuracy 0.6100, sparsity 0.7000" in text
    assert "t0003 starting" in text
    assert "│ t0000 │       0.9000 │   0.5000 │" in text
    assert "│ t0001" not in text  # dominated


def test_time_left_follows_the_rate_of_epochs(monkeypatch):
    now = set_clock(monkeypatch)
    live, _ = display(terminal=True, trials=[trial(0, 0.9, 0.5)])
    live.begin(trial(1, state="running"))
    live.rows(1, [{"epoch": epoch} for epoch in (1.0, 2.0)])
    live.rows(1, [{"epoch": 3.0}])
    now.seconds += 30
    # Three epochs in 30 seconds; three trials of ten lack, less three epochs: 27 at 10 seconds.
    assert live._seconds_left() == 270


def test_time_left_knows_that_trials_are_stopped_early(monkeypatch):
    now = set_clock(monkeypatch)
    trials = [trial(0, 0.9, 0.5), trial(1, state="pruned", epochs=4.0)]
    live, _ = display(terminal=True, trials=trials[:1])
    assert display(trials=trials, terminal=True)[0]._spared == 6  # at once, in a resume
    live.begin(trial(1, state="running"))
    live.rows(1, [{"epoch": float(epoch)} for epoch in range(1, 5)])
    live.end(trials[1], trials)
    now.seconds += 30
    # Four epochs in 30 seconds; two trials lack, of seven epochs as the first two had.
    assert live._seconds_left() == 2 * 7 * 30 / 4


def test_trials_that_have_not_reported_for_a_minute_are_pointed_out(monkeypatch):
    now = set_clock(monkeypatch)
    live, _ = display(terminal=True)
    live.begin(trial(0, state="running"))
    live.begin(trial(1, state="running"))
    now.seconds += 30
    live.rows(1, [{"epoch": 1.0, "val_accuracy": 0.6, "sparsity": 0.7}])
    now.seconds += 31
    told = [line.strip() for line in shown(live._render()).splitlines()[2:]]
    assert told == [
        "t0000 starting, no report for 0:01:01",
        "t0001 epoch 1/10, val_accuracy 0.6000, sparsity 0.7000",
    ]
    now.seconds += 3600
    assert "sparsity 0.7000, no report for 1:00:31" in shown(live._render())


def test_a_long_catch_up_of_mlflow_is_a_bar_or_lines(monkeypatch):
    now = set_clock(monkeypatch)
    live, _ = display(terminal=True)
    assert "MLflow" not in shown(live._render())
    live.mirror(500, 2000)
    text = shown(live._render())
    assert "500 of 2000 trials logged" in text
    (bar,) = [line for line in text.splitlines() if "trials logged" in line]
    assert bar.count("━") == 10  # of 40
    live.mirror(2000, 2000)
    assert "MLflow" not in shown(live._render())

    plain, console = display(terminal=False)
    now.seconds += 3600  # of the sweep
    for done in (0, 1, 2, 3):
        plain.mirror(done, 3)
        now.seconds += 6
    with plain.mirror:  # draws nothing there
        plain.mirror(0, 3)
    assert console.file.getvalue() == "note: MLflow: 2 of 3 trials logged\n"


def test_elsewhere_than_on_a_terminal_a_line_a_trial():
    live, console = display(terminal=False)
    trials = [
        trial(0, 0.9, 0.5),
        trial(1, state="failed", reason="out of memory"),
        trial(2, state="pruned", epochs=3.0),
        trial(3, 0.9, 0.5, same_as="t0000"),
    ]
    with live:
        for number in range(4):
            live.begin(trial(number, state="running"))
            live.end(trials[number], trials[: number + 1])
    first, second, third, fourth = console.file.getvalue().splitlines()
    assert first.startswith("t0000 complete: val_accuracy 0.9000, sparsity 0.5000 (1 of 4")
    assert second.startswith("t0001 failed: out of memory (1 of 4 trials done, 1 failed")
    assert third.startswith(
        "t0002 pruned: stopped after 3 epochs (2 of 4 trials done, 1 of them stopped early, 1 f"
    )
    assert fourth.startswith(
        "t0003 complete: val_accuracy 0.9000, sparsity 0.5000, the same configuration as t0000 (3"
    )


def test_reasons_are_shown_as_they_are():
    live, console = display(terminal=False)
    reason = "ValueError: no such layer [bold] in [/models/net.py]"
    failed = trial(0, state="failed", reason=reason)
    live.end(failed, [failed])
    assert f"t0000 failed: {reason} (" in console.file.getvalue()


def test_notes_are_shown_as_they_are():
    live, console = display(terminal=False)
    live.note("t0001: a layer [bold] of [/models/net.py]")
    assert console.file.getvalue() == "note: t0001: a layer [bold] of [/models/net.py]\n"


def test_front_table_tells_asked_from_measured_sparsity():
    text = shown(front_table([trial(0, 0.55, 0.5), trial(1, 1.0, 0.4)], OBJECTIVES, "a front"))
    assert "sparsity asked" in text
    assert "│ t0000 │       0.5500 │   0.5000 │ █████      │           0.51 │" in text
    assert "██████████" in text


def test_choices_are_shown_as_they_are():
    """Brackets are no markup."""
    member = dataclasses.replace(trial(0, 0.55, 0.5), params={"exclude": "layer[a-b]*[/x]"})
    assert "layer[a-b]*[/x]" in shown(front_table([member], OBJECTIVES, "a front"))
    many = {f"option_number_{i}": "[/x]" for i in range(12)}
    members = [dataclasses.replace(trial(i, 0.5, 0.5), params=many) for i in range(2)]
    assert "option_number_11 [/x]" in shown(front_table(members, OBJECTIVES, "a front"))


def test_many_parameters_share_a_column():
    """A dozen columns leave two letters to each."""
    members = [trial(0, 0.55, 0.5), trial(1, 1.0, 0.4)]
    many = {f"option_number_{i}": i for i in range(12)}
    members = [
        dataclasses.replace(m, params=m.params | many | {"regrow": regrow})
        for m, regrow in zip(members, ("zero", "latent"), strict=True)
    ]
    text = shown(front_table(members, OBJECTIVES, "a front"))
    assert "│ sparsity asked 0.51, regrow zero " in text
    assert text.count("option_number_11 11") == 1
    assert text.rstrip().endswith("option_number_11 11")


def test_secrets_are_not_shown(monkeypatch):
    monkeypatch.setenv("GITHUB_PAT", "pat-4711")
    member = dataclasses.replace(trial(0, 0.55, 0.5), params={"source": "at pat-4711"})
    assert "at ***" in shown(front_table([member], OBJECTIVES, "a front"))
    console = Console(file=io.StringIO(), width=100)
    display = SweepProgress(
        console, name="s", asked=1, epochs=1, objectives=OBJECTIVES, trials=[member]
    )
    display.note("the storage is away: pat-4711")
    assert console.file.getvalue() == "note: the storage is away: ***\n"
