"""Imports go one way, between folders and inside them: the listing is the data flow."""

import ast
import graphlib
import re
from pathlib import Path

import pytest

import jaxflow

ROOT = Path(jaxflow.__file__).parent
# What each part imports besides itself and `SHARED`, in functions and for types too.
SHARED = {"_checks", "_compilation", "_linalg"}
MODELS = {"networks", "losses", "_adapters", "_batching"}
MAY_IMPORT = {
    "_linalg": set(),
    "_checks": set(),
    "_compilation": set(),
    "_batching": set(),
    "networks": set(),
    "init": {"networks"},
    "losses": {"networks"},
    "_adapters": {"losses"},
    "_fast": {"_batching", "networks", "losses"},
    "observables": {*MODELS, "_fast"},
    "dynamics": {*MODELS, "_fast", "observables"},
    "committee": {*MODELS, "dynamics"},
    "sweeps": {"dynamics"},
    "plotting": {"dynamics", "sweeps"},
    "papers": {"networks", "losses", "init", "dynamics", "sweeps", "plotting"},
    "stored": {"papers", "plotting", "sweeps"},
    "report": {"stored", "sweeps"},
    "runner": {"report", "sweeps"},
    "cli": {"papers", "report", "runner", "stored"},
    "__main__": {"cli"},
}
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
    if path != ROOT / "__init__.py"
}


def _imported(name):
    """The modules that one imports, wherever in it."""
    path = FILES[name]
    package = name.split(".")[: None if path.name == "__init__.py" else -1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            above = package[: len(package) - node.level + 1]
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}".strip(".")
                yield inner if inner in FILES else base


def test_layers_import_downwards():
    for name in FILES:
        layer = name.split(".")[0]
        found = {other.split(".")[0] for other in _imported(name) if other}
        assert found <= MAY_IMPORT[layer] | {layer} | SHARED, name


def test_only_papers_use_the_package_as_its_users_do():
    """Those are at the bottom: for all others the package would be a circle."""
    found = {
        name.split(".")[0]
        for name, path in FILES.items()
        if re.search(r"^\s*(import|from) jaxflow\b", path.read_text(), re.MULTILINE)
    }
    assert found == {"papers"}


def test_every_layer_is_there():
    assert {name.split(".")[0] for name in FILES} == MAY_IMPORT.keys()


def test_no_file_imports_in_a_circle():
    """But for what a package offers: its parts import it from nowhere."""
    graph = {name: set(_imported(name)) - {name, ""} for name in FILES}
    list(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("paper", [p.parent.name for p in ROOT.glob("papers/*/theory.py")])
def test_theories_simulate_nothing(paper):
    own = f"papers.{paper}."
    found = {name for name in _imported(f"{own}theory") if not name.startswith("papers.")}
    assert {name.split(".")[0] for name in found} <= SHARED | {"networks", "losses"}


def _calls(path, libraries):
    """The dotted names in a file that begin with one of these."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute | ast.ImportFrom | ast.Import):
            name = ast.unparse(node).removeprefix("from ").removeprefix("import ")
            if name.startswith(libraries):
                yield f"{path.relative_to(ROOT)}:{node.lineno} {name}"


def test_only_one_module_decomposes_matrices():
    """Norms of vectors do not, and NumPy and SciPy do so without XLA's threads."""
    routes = "jnp.linalg.", "jax.numpy.linalg", "jax.scipy.linalg", "jax.lax.linalg"
    others = "lax.linalg", "jax.scipy import linalg", "jax.numpy import linalg"
    found = [
        call
        for name, path in FILES.items()
        if name != "_linalg.decompositions"
        for call in _calls(path, routes + others)
        if not call.endswith(" jnp.linalg.norm")
    ]
    assert not found


def test_no_norm_is_a_singular_value():
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "jnp.linalg.norm"
        if len(node.args) > 1 or any(k.arg == "ord" for k in node.keywords)
    ]
    assert not found


def test_only_one_function_asks_for_the_backend():
    asking = [p for p in ROOT.rglob("*.py") if "default_backend()" in p.read_text()]
    # Stores say where they were computed.
    allowed = {"backend.py", "specification.py"}
    assert {path.name for path in asking} == allowed


def test_few_names_are_at_the_top_and_resolve():
    assert len(jaxflow.__all__) <= 30
    assert all(hasattr(jaxflow, name) for name in jaxflow.__all__)
