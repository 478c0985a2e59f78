"""The README is true: its code runs, its files exist, and it opens with the two commands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rsas.analysis import knee
from rsas.load import load_sweep
from rsas.tracking import read_models, register
from tests.analysis.conftest import fill

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def after_a_sweep(tmp_path_factory):
    """A folder with the sweep ``first`` in its workspace, and its networks registered."""
    folder = tmp_path_factory.mktemp("readme")
    fill(folder / "runs", "first")
    uri = f"sqlite:///{folder}/runs/mlflow.db"
    sweep = load_sweep("first", workspace=folder / "runs")
    models = read_models(uri, sweep.runs)
    register(uri, "first", {"knee": models[knee(sweep.trials, sweep.objectives).trial_id]})
    return folder


@pytest.mark.parametrize("code", blocks("python"))
def test_python_blocks_run(code, tmp_path, request):
    """Each block alone, in an empty folder; a first comment line may name the file it is.

    What is about the sweep ``first`` has its workspace there.
    """
    if "first" in code:
        tmp_path = request.getfixturevalue("after_a_sweep")
    saved = re.findall(r"# (\w+\.py)\n", code)
    for name in saved:
        (tmp_path / name).write_text(code)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_own_model_and_data_take_less_than_ten_lines():
    own = next(code for code in blocks("python") if "npz:" in code)
    code = [line for line in own.splitlines() if line.strip() and not line.startswith("#")]
    assert len(code) < 10


def test_opens_with_a_picture_and_the_two_commands():
    picture = README.index("![")
    assert picture < README.index("make sweep") < README.index("make test")
    assert README.index("make test") < README.index("\n## ", README.index("make test"))


def test_files_it_names_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
    tree = next(block for block in blocks("text") if "rsas/" in block)
    for line in tree.splitlines():
        name = line.split()[0] if line.strip() else ""
        if name.endswith((".py", "/")) and not line.startswith(" "):
            assert (ROOT / name).exists(), name
