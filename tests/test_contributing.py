"""The recipes of CONTRIBUTING.md, followed to the letter on a copy of the package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text()
RECIPES = ("An observable", "A loss", "A paper", "An experiment")
BLOCK = re.compile(
    r"^```\w+\n# (?P<path>[\w./]+)(, after: (?P<line>[^\n]+))?\n(?P<lines>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


def recipe(title):
    """What the guide says to do, and the lines that it says to write."""
    [section] = re.findall(rf"^## {title}\n(.*?)^## ", GUIDE, re.DOTALL | re.MULTILINE)
    return BLOCK.sub("", section), list(BLOCK.finditer(section))


def follow(root, block):
    """Write the lines where their first line says."""
    path = root / block["path"]
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.read_text().splitlines() if path.exists() else []
    place = len(before)
    if block["line"] is not None:
        [place] = [k + 1 for k, line in enumerate(before) if line.strip() == block["line"]]
    after = [*before[:place], *block["lines"].splitlines(), *before[place:]]
    path.write_text("\n".join(after) + "\n")


def own_tests(blocks):
    for block in blocks:
        for name in re.findall(r"^def (test_\w+)", block["lines"], re.MULTILINE):
            yield f"{block['path']}::{name}"


@pytest.fixture(scope="module")
def call(tmp_path_factory):
    """How to run a module of Python in a copy that has followed all recipes."""
    root = tmp_path_factory.mktemp("copy")
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("jaxflow", "tests"):
        shutil.copytree(ROOT / name, root / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "CITATION.cff", "CHANGELOG.md"):
        shutil.copy(ROOT / name, root)
    for title in RECIPES:
        for block in recipe(title)[1]:
            follow(root, block)

    def run(*words):
        return subprocess.run(
            [sys.executable, "-m", *words],
            cwd=root,
            env=os.environ | {"PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


@pytest.mark.parametrize("title", RECIPES)
def test_recipes_are_short(title):
    words, blocks = recipe(title)
    assert len(words.strip().splitlines()) < 10
    assert len(blocks) >= 3
    assert max(len(block["lines"].splitlines()) for block in blocks) < 60


def test_what_is_added_passes_lint(call):
    assert call("ruff", "format", ".").returncode == 0
    done = call("ruff", "check", ".")
    assert done.returncode == 0, done.stdout


def test_what_is_added_passes_its_tests_and_those_of_the_package(call):
    blocks = [block for title in RECIPES for block in recipe(title)[1]]
    own = list(own_tests(blocks))
    assert len(own) == len(RECIPES)
    # Types are checked where something is added: everywhere takes as long as all else.
    changed = re.findall(r"(jaxflow/\S+)\.py$", "\n".join(b["path"] for b in blocks), re.M)
    modules = ",".join(name.replace("/", ".") for name in changed if "__" not in name)
    options = f"addopts=--jaxtyping-packages={modules},beartype.beartype"
    package = (
        "tests/contributed.py",
        "tests/plotting/test_axes.py",
        "tests/test_architecture.py",
        "tests/test_project.py::test_every_paper_is_cited",
        "tests/test_families.py::test_the_table_is_complete",
    )
    done = call("pytest", "-q", "-o", options, "-p", "no:cacheprovider", *own, *package)
    assert done.returncode == 0, done.stdout
