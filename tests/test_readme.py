"""The README is run, and the numbers that it shows are those that come out."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from pages import run_page

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture(scope="module")
def session():
    return run_page(README)


def test_code_runs_and_shows_its_results(session):
    names, compared = session
    assert compared >= 5
    assert names["slopes"].shape == (8,)


def test_commands_are_those_of_the_command_line():
    """Every flag that the README uses is an argument of the experiment."""
    from jaxflow.experiments.flat_minima import run

    commands = re.findall(r"jaxflow run flat-minima (.*)", README.read_text())
    flags = {flag for command in commands for flag in re.findall(r"--([a-z-]+)", command)}
    known = set(run.__annotations__) | {"help"}
    assert flags - {"help"}
    assert {flag.replace("-", "_") for flag in flags} <= known


def test_import_changes_nothing():
    """No global flag, and no JAX until something is used."""
    code = (
        "import sys, jaxflow; assert 'jax' not in sys.modules; jaxflow.gradient_flow;"
        "import jax; assert not jax.config.jax_enable_x64"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
