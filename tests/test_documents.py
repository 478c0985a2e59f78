"""The documents agree with the recorded runs, with the tree and with each other."""

import re

import pandas as pd
import pytest
from scipy import stats

from tests.documents import DOCUMENTS, FRONT, READMES, ROOT, blocks, name_of, prose

FASHION = {
    "dense": "method=dense",
    "gmp": "method=gmp update_interval=100",
    "gmp, tuned": "method=gmp distribution=erk update_interval=25 update_stop=0.9",
    "noise": "method=noise",
    "reinforced": "reinforced",
    "rigl": "method=rigl update_interval=100",
    "rigl, tuned": (
        "method=rigl drop_fraction=0.48 update_interval=150 update_stop=0.9 grow_steps=70"
    ),
    "set, tuned": (
        "method=set distribution=erk drop_fraction=0.47 update_interval=270 update_stop=0.96"
    ),
    "small_dense": "method=small_dense",
    "static": "method=static",
}
"""The recorded name of each configuration in the tables."""


@pytest.fixture(scope="module")
def runs():
    """Test accuracies in %, a row a seed: by configuration and sparsity."""
    table = pd.read_csv(ROOT / "experiments" / "results" / "fashion_mnist_test.csv")
    table["sparsity"] = table["sparsity"].round(2)
    return 100 * table.pivot_table("test_accuracy", "seed", ["configuration", "sparsity"])


def rows_of(document, heading):
    """The cells of the first table whose head begins with these words."""
    lines = document.read_text().split(f"\n{heading}", 1)[1].split("\n\n", 1)[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in [heading, *lines[2:]]]


def test_results_are_those_of_the_recorded_runs(runs):
    heading = "| method | 0.8 | 0.9 | 0.95 | 0.98 | 0.99 |"
    head, *rows = rows_of(ROOT / "experiments" / "README.md", heading)
    found = {name.replace("`", "").strip("*"): cells for name, *cells in rows}
    assert found.keys() == FASHION.keys()
    for name, cells in found.items():
        for level, cell in zip(map(float, head[1:]), cells, strict=True):
            values = runs[FASHION[name], 0.0 if name == "dense" else level]
            assert re.findall(r"[\d.]+", cell) == [f"{values.mean():.2f}"], (name, level)
            paired = values - runs["reinforced", level]
            middle, half = paired.mean(), stats.t.ppf(0.975, 4) * stats.sem(paired)
            arrow = "↑" if middle - half > 0 else "↓" if middle + half < 0 else ""
            assert "".join(re.findall("[↑↓]", cell)) == arrow, (name, level)


def test_the_front_page_has_the_same_results(runs):
    _, *rows = rows_of(FRONT, "| method | description | source | accuracy |")
    told = {}
    for name, _, _, cell in rows:
        for value, tuned in re.findall(r"([\d.]{5})( \(tuned\))?", cell):
            told[name.strip("`") + (", tuned" if tuned else "")] = value
    expected = {
        name: f"{runs[recorded, 0.0 if name == 'dense' else 0.95].mean():.2f}"
        for name, recorded in FASHION.items()
    }
    assert told == expected


def test_own_model_and_data_take_less_than_ten_lines():
    own = next(code for code in blocks(FRONT, "python") if "npz:" in code)
    code = [line for line in own.splitlines() if line.strip() and not line.startswith("#")]
    assert len(code) < 10


def test_front_page_opens_with_a_picture_and_the_two_commands():
    text = FRONT.read_text()
    assert text.index("![") < text.index("make sweep") < text.index("make test")
    assert text.index("make test") < text.index("\n## ")
    assert len(text.splitlines()) <= 250


def links(document):
    """Files that a document links to, with the heading there."""
    for target in re.findall(r"\]\(([^)]+)\)", prose(document)):
        if not target.startswith("https://"):
            path, _, heading = target.partition("#")
            yield (document.parent / path).resolve() if path else document, heading, target


def anchors(document):
    headings = re.findall(r"^#+ (.*)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_blocks_are_in_languages_that_are_tested():
    for document in DOCUMENTS:
        opened = re.findall(r"^ *```(.*)$", document.read_text(), re.MULTILINE)[::2]
        assert {*opened} <= {"json", "python", "sh", "text"}, document


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_are_relative_and_lead_to_files(document):
    for path, heading, target in links(document):
        assert not target.startswith("/") and path.exists() and ROOT in path.parents, target
        if heading:
            assert heading in anchors(path), target


def test_every_document_is_linked_from_the_front_page():
    seen, left = set(), {FRONT}
    while left:
        document = left.pop()
        seen.add(document)
        left |= {path for path, _, _ in links(document) if path in DOCUMENTS} - seen
    assert seen == {*DOCUMENTS}


def test_the_tree_has_all_of_rsas():
    (tree,) = blocks(ROOT / "CONTRIBUTING.md", "text")
    named = [line.split()[0] for line in tree.splitlines()]
    packages = {path.parent for path in (ROOT / "rsas").rglob("__init__.py")} - {ROOT / "rsas"}
    modules = {path for path in (ROOT / "rsas").glob("*.py") if path.name != "__init__.py"}
    expected = {f"{path.relative_to(ROOT)}/" for path in packages}
    expected |= {str(path.relative_to(ROOT)) for path in modules}
    assert {name for name in named if name.startswith("rsas/")} == expected
    assert all((ROOT / name).exists() for name in named)


def test_documents_use_the_words_of_the_glossary():
    heading = "| term | meaning | not |"
    _, *rows = rows_of(ROOT / "CONTRIBUTING.md", heading)
    assert len(rows) + 2 <= 25
    unwanted = {
        word
        for _, _, cell in rows
        for word in cell.split(", ")
        if word and not word.startswith("`")  # a module, whose name may be an ordinary word
    }
    assert unwanted
    for document in READMES:
        text = re.sub(r"`[^`]*`", "", prose(document)).lower()
        used = [word for word in unwanted if re.search(rf"\b{word}\b", text)]
        assert not used, f"{document}: {used}"
