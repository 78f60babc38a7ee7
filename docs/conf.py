"""How the documentation is built, offline, with warnings as errors.

python -m sphinx -W --keep-going -b html docs docs/_build
"""

import importlib.metadata
import os
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
# In the order to read them; others follow.
NOTEBOOKS = [
    "quickstart",
    "flow_beside_descent",
    "solvers_and_precision",
    "how_flat",
    "marion_chizat",
    "inside_flat_minima",
    "mulayoff_michaeli",
    "when_networks_collapse",
    "ziyin_li_meng",
    "wide_flat_minima",
    "edge_of_stability",
    "design_a_start",
    "through_training",
    "your_own",
    "on_many_machines",
]
sys.path[:0] = [str(HERE / "extensions"), str(HERE.parent)]
# Nothing is computed: a GPU, if there is one, is left alone.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

project = "jaxflow"
author = "the jaxflow authors"
version = release = importlib.metadata.version("jaxflow")
language = "en"

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "myst_nb",
    "docstrings",
    "mathml",
    "public",
]
# How releases are made is for those who make them.
exclude_patterns = ["_build", "extensions", "releasing.md"]

html_theme = "furo"
html_title = f"jaxflow {version}"
html_static_path = ["style.css"]
html_css_files = ["style.css"]
html_copy_source = False

# Notebooks are stored with their outputs, and executed by the tests.
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 3

autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_attr_annotations = False
napoleon_use_ivar = True
napoleon_use_rtype = False
python_maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"


def collect(app):
    """Copy what lives outside of this folder into it: the notebooks, and the changelog."""
    originals = {
        HERE / path.relative_to(HERE.parent): path
        for path in (HERE.parent / "notebooks").rglob("*.ipynb")
        if ".ipynb_checkpoints" not in path.parts
    }
    changes = HERE.parent / "CHANGELOG.md"
    if changes.exists():
        originals[HERE / "changelog.md"] = changes
    copies = {*(HERE / "notebooks").rglob("*.ipynb"), *HERE.glob("changelog.md")}
    for stale in copies - set(originals):
        stale.unlink()
    for copy, original in originals.items():
        # Links to these pages are from there; the README is, in short, the first page.
        text = re.sub(r"(\]\((?:\.\./)*)docs/", r"\1", original.read_text())
        text = re.sub(r"(\]\((?:\.\./)*)README\.md", r"\1index.md", text)
        # As it is where nothing changed, so that it is not read again.
        if not copy.exists() or copy.read_text() != text:
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(text)


def arrange(app, docname, source):
    """Fill in the pages that were collected, for a list may not name what is missing."""
    copies = [*(HERE / "notebooks").rglob("*.ipynb"), *HERE.glob("changelog.md")]
    pages = [path.relative_to(HERE).with_suffix("").as_posix() for path in copies]
    notebooks = [page for page in pages if page != "changelog"]
    names = [f"notebooks/{name}" for name in NOTEBOOKS]
    place = lambda page: names.index(page) if page in names else len(names)
    listed = "\n".join(sorted(notebooks, key=lambda page: (place(page), page)))
    changelog = "changelog" if "changelog" in pages else ""
    source[0] = source[0].replace("{notebooks}", listed).replace("{changelog}", changelog)


def setup(app):
    """Register what runs before pages are read."""
    app.connect("builder-inited", collect)
    app.connect("env-get-outdated", lambda *args: ["index", "tutorials"])
    app.connect("source-read", arrange)
