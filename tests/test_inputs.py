"""Wrong arguments of every public function: an error of ours that names it, or `nan`."""

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from inputs import CALLS, EXEMPT, cases

import jaxflow as jf

SPACES = ("networks", "init", "losses", "dynamics", "observables", "committee", "papers")
RETURNED = (
    *("Trajectory", "Status", "dynamics.Edge", "observables.Spectrum"),
    *("observables.SpectralDensity", "committee.LocalEntropy"),
)
# What takes no arguments, is returned, or is tested elsewhere.
OTHERS = {
    "AbstractLoss": "abstract",
    **dict.fromkeys(RETURNED, "returned"),
    "networks.AbstractLayered": "abstract",
    "networks.AbstractDense": "abstract",
    "sweep": "tests/sweeps",
    "save": "tests/sweeps",
    "load": "tests/sweeps",
    "plot": "tests/plotting",
    **dict.fromkeys(SPACES, "a namespace"),
}


def public():
    """All names, with their namespace where they are not at the top level."""
    yield from jf.__all__
    modules = {name: getattr(jf, name) for name in SPACES if name != "papers"}
    modules |= {name: getattr(jf.papers, name) for name in jf.papers.__all__}
    for where, module in modules.items():
        source = Path(module.__file__).read_text()
        for name, thing in vars(module).items():
            own = getattr(thing, "__module__", None) == module.__name__
            own |= re.search(rf"\b{name} as {name}\b", source) is not None
            kind = inspect.isclass(thing) or inspect.isroutine(thing)
            # What papers return is made by nobody else.
            kind &= where in SPACES or not inspect.isclass(thing)
            at_top = getattr(jf, name, None) is thing
            if own and kind and name[0] != "_" and not at_top:
                yield f"{where}.{name}"


def test_every_public_name_has_a_right_call_here():
    assert not {n for n in public() if n not in CALLS and n not in OTHERS}
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
