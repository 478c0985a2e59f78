"""The documents, for the tests that they are true: all README.md of git, and CONTRIBUTING.md."""

import re
import subprocess
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]
FRONT = ROOT / "README.md"
LISTED = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*README.md"]
READMES = [
    ROOT / name
    for name in sorted(subprocess.check_output(LISTED, cwd=ROOT, text=True).splitlines())
    if (ROOT / name).exists()
]
DOCUMENTS = [*READMES, ROOT / "CONTRIBUTING.md"]


def name_of(value):
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else None


def blocks(document, language):
    """The blocks of code of a document, also those inside of lists."""
    found = re.findall(
        rf"^( *)```{language}\n(.*?)^\1```$", document.read_text(), re.DOTALL | re.MULTILINE
    )
    return [textwrap.dedent(block) for _, block in found]


def prose(document):
    return re.sub(r"^ *```.*?^ *```$", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)


def all_blocks(language):
    return [(document, code) for document in DOCUMENTS for code in blocks(document, language)]
