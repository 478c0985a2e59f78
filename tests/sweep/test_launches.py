"""What a launch notes of its time, by clocks that the test sets."""

import pytest

from rsas import TrainConfig
from rsas.errors import Halted
from rsas.records import Objective
from rsas.sweep.experiment import Experiment
from rsas.sweep.launches import LaunchLog
from rsas.sweep.status import hours_of
from rsas.sweep.study.launch import Launch
from rsas.sweep.study.study import Study
from search_spaces.paper import paper

WALL = 1_700_000_000.0


class Machine:
    """A study, a number of slots, and the two clocks of a machine."""

    def __init__(self, path):
        experiment = Experiment(
            name="test",
            base=TrainConfig(),
            space=paper,
            objectives=(Objective("val_accuracy", "max", 0.1),),
        )
        self.study = Study(path, experiment)
        self.slots, self.elapsed, self.wall = 2, 50.0, WALL

    def launch(self):
        return LaunchLog(
            self.study, lambda: self.slots, clock=lambda: self.elapsed, wall=lambda: self.wall
        )

    def wait(self, seconds, *, jump=0.0):
        """Let time pass; somebody sets the wall clock by ``jump`` seconds."""
        self.elapsed += seconds
        self.wall += seconds + jump


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path / "study")


@pytest.mark.parametrize("jump", [-10800.0, 10800.0])
def test_hours_do_not_depend_on_the_wall_clock(jump, machine):
    log = machine.launch()
    machine.wait(100, jump=jump)
    log.rows(0, [{"seconds": 30.0}])
    machine.wait(260, jump=jump)
    log.save()
    machine.wait(5000)  # interrupted
    again = machine.launch()
    machine.wait(360, jump=-jump)
    again.save()
    first, second = machine.study.launches()
    assert (first.began, second.began) == (WALL, WALL + 5360 + 2 * jump)
    assert (first.first, first.last) == (WALL + 70, WALL + 360)
    assert hours_of([first, second]) == pytest.approx(0.2, rel=1e-9)


def test_slots_count_from_the_first_epoch_to_the_last(machine):
    log = machine.launch()
    machine.wait(10)  # start-up
    log.rows(0, [{"seconds": 4.0}])  # since 6
    machine.wait(5)
    machine.slots = 3
    log.save()  # no epoch: the slots are not counted yet
    machine.wait(2)
    log.rows(0, [{"seconds": 6.5}])
    machine.wait(100)
    log.save()
    (found,) = machine.study.launches()
    assert found == Launch(
        began=WALL,
        first=WALL + 6,
        last=WALL + 117,
        slot_seconds=2 * 4.0 + 3 * 7.0,
        trained=10.5,
    )


def test_a_kill_loses_a_minute_at_most(machine):
    log = machine.launch()
    for _ in range(610):
        machine.wait(0.1)
        log.tick()
    (found,) = machine.study.launches()
    assert found.last == pytest.approx(WALL + 60, abs=0.2)
    machine.wait(60.0)
    log.rows(0, [{"seconds": 1.0}])
    (found,) = machine.study.launches()
    assert found.last == pytest.approx(WALL + 121, abs=0.2)
    assert found.trained == 1.0


def test_what_is_cut_off_is_noted_at_once(machine):
    log = machine.launch()
    log.cut_off(20.0)
    log.cut_off(1.5)
    assert machine.study.launches()[0].cut_off == 21.5


def test_failures_before_a_launch_are_noted(machine):
    study = machine.study
    for _ in range(2):
        study.fail(study.begin(), "out of memory")
    machine.launch()
    study.fail(study.begin(), "out of memory")
    machine.launch()
    assert [launch.failures for launch in study.launches()] == [2, 3]


def test_a_study_that_cannot_be_written_is_reported_by_others(machine, monkeypatch):
    log = machine.launch()

    def full(*_):
        raise Halted("the disk is full")

    monkeypatch.setattr(machine.study, "note_launch", full)
    log.save()
