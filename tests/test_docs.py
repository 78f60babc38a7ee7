"""The documentation is built without a warning, runs, and names what is there."""

import ast
import html
import inspect
import json
import operator
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import jax
import pytest
from pages import run_page

import jaxflow as jf

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
LISTED = re.search(r"```{toctree}.*?```", (DOCS / "how_to.md").read_text(), re.DOTALL)[0]
# The recipe for clusters has a test of its own, which loses a worker and the driver.
PAGES = [
    "index",
    "gallery",
    *(set(re.findall(r"^\w+$", LISTED, re.MULTILINE)) - {"cluster"}),
]
THEORY = [path for path in sorted((DOCS / "theory").glob("*.md")) if path.stem != "index"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The pages by their names, as they are served."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"),
            *("-d", folder / "doctrees", DOCS, folder / "html"),
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    pages = folder / "html"
    return {str(p.relative_to(pages)): p.read_text() for p in pages.rglob("*.html")}


def test_pages_need_no_network(site):
    """Neither for scripts, styles and images, nor for formulas, which are there."""
    foreign = re.compile(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"(?:https?:)?//")
    assert not [name for name, page in site.items() if foreign.search(page)]
    assert all("<math" in site[f"theory/{path.stem}.html"] for path in THEORY)


def test_notebooks_are_tutorials_with_their_figures(site):
    for path in (ROOT / "notebooks").rglob("*.ipynb"):
        if ".ipynb_checkpoints" in path.parts:
            continue
        name = path.relative_to(ROOT).with_suffix(".html").as_posix()
        assert f'href="{name}"' in site["tutorials.html"]
        cells = json.loads(path.read_text())["cells"]
        outputs = [out for cell in cells for out in cell.get("outputs", [])]
        figures = sum("image/png" in out.get("data", {}) for out in outputs)
        assert site[name].count("/_images/") >= figures


def test_every_public_name_is_in_the_api_exactly_once(site):
    api = [page for name, page in site.items() if name.startswith("api/")]
    described = re.compile(r'<dt class="sig sig-object py" id="(jaxflow\.[\w.]+)"')
    found = Counter(name for page in api for name in described.findall(page))
    public = [f"jaxflow.{name}" for name in jf.__all__]
    for name in public:
        thing = _find(name)
        if inspect.ismodule(thing):
            public += [f"{name}.{inner}" for inner in _offered(thing)]
    named = [
        name
        for name in public
        if inspect.isroutine(_find(name)) or inspect.isclass(_find(name))
    ]
    assert len(named) > 150
    assert {name: found[name] for name in named} == dict.fromkeys(named, 1)


def _find(name):
    return operator.attrgetter(name.removeprefix("jaxflow."))(jf)


def _offered(module):
    """What a namespace defines or imports for others to have, but for the top level."""
    source = inspect.getsource(module)
    for name in [*getattr(module, "__all__", vars(module))]:
        own = getattr(getattr(module, name), "__module__", None) == module.__name__
        again = re.search(rf"\b{name} as {name}\b", source)
        listed = hasattr(module, "__all__") or own or again
        at_top = getattr(jf, name, None) is getattr(module, name)
        if not name.startswith("_") and listed and not at_top:
            yield name


def test_signatures_are_those_of_the_source(site):
    api = "".join(page for name, page in site.items() if name.startswith("api/"))
    text = html.unescape(re.sub(r"<[^>]+>", "", api))
    assert "covariance: Float[Array, 'in in']" in text
    assert "network: PyTree[Array]" in text
    for unreadable in ("jaxlib", "jaxtyping.", "object at 0x", "<function", "eqx.field"):
        assert unreadable not in text


@pytest.fixture
def settings():
    """What a page sets is set back."""
    names = ("jax_enable_x64", "jax_default_matmul_precision")
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.mark.parametrize("page", sorted(PAGES))
def test_code_of_pages_runs_and_shows_its_results(page, settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, compared = run_page(DOCS / f"{page}.md")
    assert compared > 0


# What is said, how sure it is, and where it is computed and tested.
STATEMENT = re.compile(r"^\*\*[^.\n]+\*\*.*?(?=\n\n|\Z)", re.DOTALL | re.MULTILINE)
SURE = r"\*\*({})\*\*( \([^·]*?\))?"
FORM = re.compile(
    SURE.format("In the paper|Derived|Remembered|Known")
    + rf"(, {SURE.format('derived')})? · computed by [^·]+ · tested by [^·]+",
)


def _there(home, name):
    """Whether a name is in a module, or in what is in it."""
    for part in name.split("."):
        if part in getattr(home, "__dataclass_fields__", {}):
            return True
        if not hasattr(home, part):
            return False
        home = getattr(home, part)
    return True


def _tests(path):
    tests = set()
    for node in ast.parse(path.read_text()).body:
        tests.add(getattr(node, "name", None))
        if isinstance(node, ast.ClassDef):
            tests |= {
                f"{node.name}::{inner.name}"
                for inner in node.body
                if hasattr(inner, "name")
            }
    return tests


@pytest.mark.parametrize("page", THEORY, ids=lambda page: page.stem)
def test_theory_names_functions_and_tests_that_exist(page):
    text = page.read_text()
    module = jf
    for part in re.search(r"^module: jaxflow\.?(.*)$", text, re.MULTILINE)[1].split("."):
        module = getattr(module, part) if part else module
    [own] = re.findall(r"^tests: (.+)$", text, re.MULTILINE)
    names = set(re.findall(r"`([A-Za-z_][\w./:]*)`", text))
    for name in names:
        file, _, test = name.rpartition("::") if ".py::" in name else ("", "", name)
        if name.startswith("tests/") and not file:
            assert (ROOT / name).is_file(), name
        elif name.startswith(("tests/", "test_", "Test")):
            file, test = name.split("::", 1) if file else (own, test)
            assert test in _tests(ROOT / file), name
        else:
            homes = module, jf, jf.losses, jf.observables, jf.dynamics, jf.committee
            assert any(_there(home, name.removeprefix("jf.")) for home in homes), name
    if module is not jf:
        functions = inspect.getmembers(module, inspect.isfunction)
        own = {n for n, f in functions if f.__module__ == module.__name__ and n[0] != "_"}
        assert own <= names


def test_the_glossary_has_each_term_once_and_names_what_is_there():
    text = (DOCS / "glossary.md").read_text()
    terms = re.findall(r"^(\S.*)\n  \S", text, re.MULTILINE)
    assert len(terms) > 25
    assert terms == sorted(set(terms), key=str.lower)
    names = re.findall(r"`jf\.([\w.]+)`", text)
    assert len(names) > 15
    assert [name for name in names if not _there(jf, name)] == []


@pytest.mark.parametrize("page", THEORY, ids=lambda page: page.stem)
def test_theory_says_how_sure_it_is(page):
    statements = [
        " ".join(statement.split())
        for statement in STATEMENT.findall(page.read_text())
        if not statement.startswith(("**Setting.", "**Convention."))
    ]
    assert len(statements) >= 5
    assert [s for s in statements if not FORM.fullmatch(s)] == []
