"""Commands whose output goes nowhere, or that run where no folder is."""

import os
import shlex
import subprocess
import sys

import pytest

from tests.analysis.conftest import fill
from tests.resources import RSAS

PYTHONPATH = os.pathsep.join(path for path in sys.path if path)
COMMAND = shlex.join(RSAS)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    path = tmp_path_factory.mktemp("streams") / "runs"
    fill(path)
    return path


def run(line, workspace, **environment):
    """Run a line of the shell; returns its exit code, output and errors."""
    variables = {"PYTHONPATH": PYTHONPATH, "RSAS_WORKSPACE": str(workspace)}
    done = subprocess.run(
        ["bash", "-c", line],
        env=os.environ | variables | environment,
        cwd=workspace.parent,
        capture_output=True,
        timeout=60,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["pareto made", "--help"])
def test_output_on_a_full_disk_is_one_line(workspace, command):
    code, _, err = run(f"{COMMAND} {command} > /dev/full", workspace)
    assert err == "rsas: error: the output cannot be written (No space left on device)\n"
    assert code == 2


@pytest.mark.slow
def test_closed_output_is_no_error(workspace):
    assert run(f"{COMMAND} pareto made >&-", workspace) == (0, "", "")
    assert run(f"{COMMAND} pareto other 2>&-", workspace) == (2, "", "")


@pytest.mark.slow
def test_characters_that_the_encoding_lacks_are_replaced(workspace):
    path = workspace.with_name("äöü")
    code, out, err = run(
        f"{COMMAND} pareto made --workspace {path}", workspace, PYTHONIOENCODING="ascii"
    )
    assert (code, out) == (2, "")
    assert "workspace" in err and "Traceback" not in err
    code, out, err = run(f"{COMMAND} pareto made", workspace, PYTHONIOENCODING="ascii")
    assert (code, err) == (0, "")
    assert "front of" in out and out.isascii()


def test_a_deleted_folder_is_one_line(workspace):
    gone = workspace.with_name("gone")
    code, out, err = run(f"mkdir {gone}; cd {gone}; rmdir {gone}; {COMMAND} pareto made", workspace)
    assert (code, out) == (2, "")
    assert err == "rsas: error: the current folder was deleted; change to one that exists\n"
