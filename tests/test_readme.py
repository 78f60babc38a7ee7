"""The README is run, and the numbers that it shows are those that come out."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

README = Path(__file__).parents[1] / "README.md"
RESULT = re.compile(r"^(?P<expression>\S.*?)  # (?P<value>-?\d+(\.\d+)?)$", re.MULTILINE)


@pytest.fixture(scope="module")
def session():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    code = "\n".join(blocks)
    # As a user has it: without the strictness of the tests.
    names = {}
    import jax

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(compile(code, str(README), "exec"), names)
        shown = [
            (match["expression"], eval(match["expression"], names), match["value"])
            for match in RESULT.finditer(code)
        ]
    return names, shown


def test_code_runs_and_shows_its_results(session):
    names, shown = session
    assert len(shown) >= 5
    assert names["slopes"].shape == (8,)
    for expression, value, printed in shown:
        digits = len(printed.split(".")[1])
        assert f"{float(np.asarray(value)):.{digits}f}" == printed, expression


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
