"""What all tests share."""

import contextlib
import shutil
import signal
import sys

import numpy as np
import pytest
import torch
from hypothesis import settings

from rsas.cli import main
from tests import resources
from tests.needs import lacking

# A shell has what it runs in the background ignore Ctrl-C, which commands under test would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Property tests are reproducible, and slow machines are no failure.
settings.register_profile("rsas", deadline=None, derandomize=True)
settings.load_profile("rsas")


torch.set_num_threads(1)  # for fixtures that are made before the first test

RESOURCE_FIXTURES = {"browser", "hold", "server"}


def pytest_collection_modifyitems(items):
    """Mark the tests whose fixtures start a resource or end a process."""
    for item in items:
        if RESOURCE_FIXTURES & {*item.fixturenames}:
            item.add_marker("resource")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Guard each test that is not marked, with its fixtures."""
    with contextlib.nullcontext() if item.get_closest_marker("resource") else resources.guard():
        return (yield)


@pytest.fixture(autouse=True)
def one_thread():
    """Golden figures were made with one thread, and trials are tested beside each other."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch, tmp_path_factory):
    """Nothing of the caller's: no tracking server, workspace or cached data."""
    for name in ("MLFLOW_TRACKING_URI", "RSAS_STUDY_STORAGE", "RSAS_WORKSPACE", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def command_line(monkeypatch, capsys):
    """Run a command in this process; returns (exit code, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["rsas", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def browser():
    """Debian's chromium; without it these tests are skipped, but in CI they fail."""
    chromium = shutil.which("chromium")
    if chromium is None:
        lacking("needs chromium (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def images(tmp_path):
    """``npz:PATH`` of a small data set of three classes that a network can learn."""
    rng = np.random.default_rng(0)

    def make(count):
        y = np.arange(count) % 3
        x = rng.integers(0, 60, (count, 8, 8, 3))
        for row, label in enumerate(y):
            x[row, label * 2 : label * 2 + 3] += 150
        return x.astype(np.uint8), y

    x_train, y_train = make(120)
    x_test, y_test = make(30)
    path = tmp_path / "images.npz"
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return f"npz:{path}"
