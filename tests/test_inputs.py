"""Wrong arguments of every public function: an error of ours that names it, or `nan`."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from inputs import CALLS, EXEMPT, cases

import jaxflow as jf

# What takes no arguments, is returned, or is tested elsewhere.
OTHERS = {
    "AbstractLoss": "abstract",
    "Edge": "returned",
    "Trajectory": "returned",
    "Status": "returned",
    "sweep": "of experiments: tests/experiments",
    "save": "of experiments: tests/experiments",
    "load": "of experiments: tests/experiments",
    "plot": "of experiments: tests/experiments",
    "init": "a namespace",
    "theory": "a namespace",
}


def public():
    """All names, those of `init` and of the papers with their namespace."""
    yield from jf.__all__
    for where, module in [("init", jf.init), *vars(jf.theory).items()]:
        if not inspect.ismodule(module) or not (where == "init" or where in PAPERS):
            continue
        for name, thing in vars(module).items():
            own = getattr(thing, "__module__", None) == module.__name__
            if own and inspect.isfunction(thing) and not name.startswith("_"):
                yield f"{where}.{name}"


PAPERS = {name.split(".")[0] for name in CALLS if "." in name} - {"init"}


def test_every_public_name_has_a_right_call_here():
    names = {*public(), *(f"{name}" for name in CALLS)}
    assert not {n for n in names if n not in CALLS and n not in OTHERS}
    assert not CALLS.keys() & OTHERS.keys()


def test_what_is_exempt_is_tried():
    tried = {case for name in CALLS for case, *_ in cases(name)}
    assert len(tried) > 3000
    assert not EXEMPT.keys() - tried


@pytest.fixture(scope="module")
def faults():
    """As users have it, without checks of types."""
    script = Path(__file__).parent / "inputs.py"
    environment = {**os.environ, "PYTHONPATH": str(Path(jf.__file__).parents[1])}
    run = subprocess.run(
        [sys.executable, script],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(run.stdout.splitlines()[-1])["faults"]


@pytest.mark.parametrize("name", CALLS)
def test_wrong_arguments_are_refused_by_name(faults, name):
    assert not faults[name]
