"""The long form of the kill tests: ``make chaos``.

Sweeps with one trial at a time are disturbed at random moments, resumed, and compared with an
undisturbed one; each sweep is extended and disturbed again.
"""

import argparse
import contextlib
import random
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.faults.harness import (
    DISTURBANCES,
    Place,
    disturb,
    kind_of_place,
    make_place,
    undisturbed,
)
from tests.servers import losing_answers, mlflow_server

_ROUNDS = 5  # disturbances of a sweep; of one with a limit, which it uses up, one
_TRIALS = 2  # that each adds
_FUNCTIONS = ("experiment", "own_loop")  # sweeps take turns: rsas's own trainer, a loop of a user


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.faults.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--at-once", type=int, default=2, help="sweeps beside each other")
    parser.add_argument("--only", choices=DISTURBANCES)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    kinds = [options.only] if options.only else list(DISTURBANCES)
    plan = [kinds[i % len(kinds)] for i in range(options.kills)]
    rng.shuffle(plan)
    sweeps = parted(plan)
    rng.shuffle(sweeps)
    console = Console(width=120)
    console.print(f"{options.kills} disturbances of {len(sweeps)} sweeps, seed {options.seed}")
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-"))
        proxy = None
        if "answers lost" in plan:
            database = f"sqlite:///{folder}/server.db"
            server = stack.enter_context(mlflow_server(Path(folder) / "server", database))
            proxy = stack.enter_context(losing_answers(server.port))
            proxy.calm = True
        expected = {
            function: undisturbed(
                Place(Path(folder) / f"undisturbed-{function}", function),
                _ROUNDS * _TRIALS,
                Path(folder) / f"study-{function}",
            )
            for function in _FUNCTIONS
        }

        def one(index):
            kind = kind_of_place(sweeps[index][0])
            function = "experiment" if kind == "limit" else _FUNCTIONS[index % 2]
            place = make_place(Path(folder) / str(index), kind, proxy, function)
            own = random.Random(options.seed * 1000 + index)
            found = []
            for n, kind in enumerate(sweeps[index], 1):
                outcome = disturb(place, f"s{index}", n * _TRIALS, kind, own, expected[function])
                found.append(outcome)
                told = "good" if outcome.is_good else f"BAD {outcome}\n{place.output()}"
                console.print(
                    f"sweep {index}, {function}: {kind} at epoch {outcome.at}: {told}", markup=False
                )
            return found

        with ThreadPoolExecutor(options.at_once) as pool:
            outcomes = [o for found in pool.map(one, range(len(sweeps))) for o in found]
    print_table(outcomes, console)
    raise SystemExit(not all(outcome.is_good for outcome in outcomes))


def parted(plan):
    """Disturbances by sweep: each sweep has those that need the same kind of place."""
    groups = {}
    for kind in plan:
        groups.setdefault(kind_of_place(kind), []).append(kind)
    return [
        kinds[i : i + rounds]
        for place, kinds in groups.items()
        for rounds in [1 if place == "limit" else _ROUNDS]
        for i in range(0, len(kinds), rounds)
    ]


def print_table(outcomes, console):
    table = Table(title="disturbances", title_justify="left")
    for column in ("kind", "times", "check = 0", "all complete, as undisturbed"):
        table.add_column(column)
    for column in ("epochs again, most", "allowed", "seconds, median"):
        table.add_column(column, justify="right")
    for kind in DISTURBANCES:
        mine = [outcome for outcome in outcomes if outcome.kind == kind]
        if not mine:
            continue
        seconds = sorted(outcome.seconds for outcome in mine)
        table.add_row(
            kind,
            f"{len(mine)}",
            f"{sum(not outcome.faults for outcome in mine)}",
            f"{sum(outcome.same for outcome in mine)}",
            f"{max(outcome.again for outcome in mine)}",
            f"{mine[0].allowed}",
            f"{seconds[len(seconds) // 2]:.0f}",
        )
    console.print(table)
    good = sum(outcome.is_good for outcome in outcomes)
    console.print(f"{good} of {len(outcomes)} without a fault")


if __name__ == "__main__":
    main()
