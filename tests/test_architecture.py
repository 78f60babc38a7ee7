"""The layers import downwards only: the folder listing is the data flow."""

import ast
from pathlib import Path

import jaxflow

ROOT = Path(jaxflow.__file__).parent
MAY_IMPORT = {
    "_linalg": set(),
    "_checks": set(),
    "_compilation": {"_linalg"},
    "kernels": {"_linalg"},
    "networks": set(),
    "init": {"_linalg", "networks"},
    "losses": {"_linalg", "networks"},
    "variants": {"losses"},
    "modules": {"_linalg", "losses", "variants"},
    "patterns": {"networks", "losses"},
    "dynamics": {
        *("_linalg", "kernels", "networks", "losses", "variants", "modules", "patterns"),
    },
    "observables": {
        *("_linalg", "kernels", "networks", "losses", "variants", "modules", "patterns"),
    },
    "theory": {"_linalg", "networks", "losses"},
    "experiments": {
        *("_linalg", "networks", "init", "losses", "variants", "modules", "patterns"),
        *("dynamics", "observables", "theory"),
    },
}


def _layers(path):
    """The layers that a file imports, and its own."""
    parts = path.relative_to(ROOT).parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == len(parts):
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from (name.split(".")[0] for name in names)
        elif isinstance(node, ast.Import) and len(parts) and parts[0] != "experiments":
            # Only experiments, at the bottom, may use the package as its users do.
            yield from (a.name for a in node.names if a.name.split(".")[0] == "jaxflow")


def test_layers_import_downwards():
    wrong = [
        f"{path.relative_to(ROOT)} imports {target}"
        for path in ROOT.rglob("*.py")
        if (layer := path.relative_to(ROOT).parts[0].removesuffix(".py")) in MAY_IMPORT
        for target in _layers(path)
        if target not in MAY_IMPORT[layer] | {layer, "_checks", "_compilation"}
    ]
    assert not wrong


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
        for path in ROOT.rglob("*.py")
        if path.relative_to(ROOT).parts[0] != "_linalg"
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


def test_every_layer_is_there():
    found = {p.stem for p in ROOT.iterdir() if p.suffix == ".py" or p.is_dir()}
    assert set(MAY_IMPORT) == found - {"__init__", "__main__", "__pycache__"}


def test_public_names_resolve():
    assert all(hasattr(jaxflow, name) for name in jaxflow.__all__)
