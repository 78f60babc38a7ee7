"""The layers import downwards only: the folder listing is the data flow."""

import ast
from pathlib import Path

import jaxflow

ROOT = Path(jaxflow.__file__).parent
MAY_IMPORT = {
    "_checks": set(),
    "kernels": set(),
    "networks": set(),
    "init": {"networks"},
    "losses": {"networks"},
    "variants": {"losses"},
    "modules": {"losses", "variants"},
    "patterns": {"networks", "losses"},
    "dynamics": {"kernels", "networks", "losses", "variants", "modules", "patterns"},
    "observables": {"kernels", "networks", "losses", "variants", "modules", "patterns"},
    "theory": {"networks", "losses"},
    "experiments": {
        *("networks", "init", "losses", "variants", "modules", "patterns"),
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
        if target not in MAY_IMPORT[layer] | {layer, "_checks"}
    ]
    assert not wrong


def test_every_layer_is_there():
    found = {p.stem for p in ROOT.iterdir() if p.suffix == ".py" or p.is_dir()}
    assert set(MAY_IMPORT) == found - {"__init__", "__main__", "__pycache__"}


def test_public_names_resolve():
    assert all(hasattr(jaxflow, name) for name in jaxflow.__all__)
