"""Where a sweep comes from, against git itself."""

import importlib
import platform
import subprocess

import pytest
import torch

from rsas.sweep.provenance import provenance_of


def git(folder, *command):
    options = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *options, "-C", str(folder), *command], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_the_commit_of_the_experiments_repository(tmp_path):
    git(tmp_path, "init")
    file = tmp_path / "study.py"
    file.write_text("x = 1\n")
    git(tmp_path, "add", "study.py")
    git(tmp_path, "commit", "-m", "one")
    source = f"{file}:experiment"
    found = provenance_of(source)
    assert found["commit"] == git(tmp_path, "rev-parse", "HEAD") and not found["dirty"]
    file.write_text("x = 2\n")
    assert provenance_of(source)["dirty"]


@pytest.mark.parametrize("finder", ["importlib.metadata", "importlib_metadata"])
def test_what_a_broken_installation_left_is_no_package(finder, tmp_path, monkeypatch):
    importlib.import_module(finder)  # the latter adds a finder of its own
    (tmp_path / "left-1.0.dist-info").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    packages = provenance_of(f"{tmp_path}/study.py:experiment")["packages"]
    assert "torch" in packages and all(packages)


def test_without_a_repository(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    found = provenance_of(f"{tmp_path}/study.py:experiment")
    assert (found["commit"], found["dirty"]) == ("", False)
    assert found["python"] == platform.python_version()
    assert torch.__version__.startswith(found["packages"]["torch"].partition("+")[0])
    monkeypatch.setenv("PATH", "")
    assert provenance_of(f"{tmp_path}/study.py:experiment")["commit"] == ""
