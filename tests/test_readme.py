"""The README is run, and the numbers that it shows are those that come out."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from cyclopts import CycloptsError
from pages import run_page

from jaxflow.cli import _app

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture(scope="module")
def session():
    return run_page(README)


def test_code_runs_and_shows_its_results(session):
    names, compared = session
    assert compared >= 5
    assert names["slopes"].shape == (8,)


PAGES = [README, *sorted(README.parent.glob("docs/**/*.md"))]
COMMAND = re.compile(r"\bjaxflow ((?:list|run|show|report)\b[^\n`|&)]*|--\w+)")
COMMANDS = {
    found.strip()
    for page in PAGES
    if "_build" not in page.parts
    for found in COMMAND.findall(page.read_text())
}


@pytest.mark.parametrize("words", sorted(COMMANDS - {"run", "list", "show", "report"}))
def test_commands_are_those_of_the_command_line(words):
    """With its own parser: names, flags, and values of the right type."""
    _app(words.split()).parse_args(words, exit_on_error=False, print_error=False)


def test_commands_of_pages_are_found_and_mistakes_in_them_too():
    assert len(COMMANDS) > 10
    assert any("--step-sizes" in words for words in COMMANDS)
    for wrong in ("run flat-minmia", "run flat-minima --stepsize 1", "report"):
        with pytest.raises(CycloptsError):
            _app(wrong.split()).parse_args(wrong, exit_on_error=False, print_error=False)


def test_import_changes_nothing():
    """No global flag, and no JAX until something is used."""
    code = (
        "import sys, jaxflow; assert 'jax' not in sys.modules; jaxflow.gradient_flow;"
        "import jax; assert not jax.config.jax_enable_x64"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
