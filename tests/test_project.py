"""What the project says of itself: one version, true references, forms that are valid."""

import importlib
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

import jaxflow as jf

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
# Of the fields of an issue form, which others have been refused.
ATTRIBUTES = {
    "markdown": {"value"},
    "input": {"label", "description", "placeholder", "value"},
    "textarea": {"label", "description", "placeholder", "value", "render"},
    "dropdown": {"label", "description", "options", "multiple", "default"},
    "checkboxes": {"label", "description", "options"},
}


def test_the_citation_is_of_this_version():
    assert CITATION["cff-version"] == "1.2.0"
    assert CITATION["message"]
    assert CITATION["type"] == "software"
    assert CITATION["title"].startswith(PROJECT["name"])
    assert CITATION["version"] == PROJECT["version"] == jf.__version__
    assert CITATION["license"] == PROJECT["license"]
    assert CITATION["authors"] == PROJECT["authors"]


@pytest.mark.parametrize("reference", CITATION["references"], ids=lambda r: r["title"])
def test_references_are_whole(reference):
    """What the format requires, and what finds the paper."""
    assert reference["type"] in {"article", "conference-paper"}
    assert all({"family-names", "given-names"} == set(a) for a in reference["authors"])
    assert isinstance(reference["year"], int)
    assert ("journal" in reference) == (reference["type"] == "article")
    assert ("conference" in reference) == (reference["type"] == "conference-paper")
    assert re.fullmatch(r"https://arxiv\.org/abs/\d{4}\.\d{5}", reference["url"])


def _folder(reference):
    names = [author["family-names"].lower() for author in reference["authors"]]
    return "_".join([*names[: 1 if len(names) > 3 else 3], str(reference["year"])])


def test_every_paper_is_cited():
    """A folder of `papers` is named for the authors and the year."""
    folders = {p.name for p in Path(jf.__file__).with_name("papers").iterdir()}
    papers = {name for name in folders if re.fullmatch(r"[a-z_]+_\d{4}", name)}
    cited = {_folder(reference): reference for reference in CITATION["references"]}
    assert papers == cited.keys()
    for name in papers:
        # Its docstring has the same reference.
        words = " ".join(importlib.import_module(f"jaxflow.papers.{name}").__doc__.split())
        number = cited[name]["url"].rpartition("/")[2]
        assert f'"{cited[name]["title"]}"' in words
        assert f"arXiv {number}" in words


def test_the_changelog_tells_of_this_version():
    versions = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    released = f"[{PROJECT['version']}] - "
    assert versions[0] == "Unreleased"
    assert any(v.startswith(released) for v in versions[1:]) or len(versions) == 1


def test_pythons_are_those_of_the_workflow():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    [job] = workflow["jobs"].values()
    tried = job["strategy"]["matrix"]["python"]
    stem = "Programming Language :: Python :: 3."
    said = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if c.startswith(stem)]
    assert tried == said
    assert PROJECT["requires-python"] == f">={tried[0]}"
    assert job["steps"][-1] == {"run": ".ci/run"}


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms_are_valid(path):
    form = yaml.safe_load(path.read_text())
    if path.stem == "config":
        assert form == {"blank_issues_enabled": True}
        return
    assert set(form) == {"name", "description", "labels", "body"}
    for field in form["body"]:
        assert set(field) <= {"type", "id", "attributes", "validations"}
        assert set(field["attributes"]) <= ATTRIBUTES[field["type"]]
        assert field["attributes"]["label"]
        assert set(field.get("validations", {})) <= {"required"}
    names = [field["id"] for field in form["body"]]
    assert len(set(names)) == len(names)
    assert any(field.get("validations") for field in form["body"])


FAKE = """#!/bin/sh
case "$*" in
  "-c import sys; sys.exit"*) exit {early} ;;
  "-m venv .venv/newest")
    mkdir -p .venv/newest/bin
    printf '#!/bin/sh\\nexit {broken}\\n' > .venv/newest/bin/pip
    printf '#!/bin/sh\\necho ran {name} "$@"\\n' > .venv/newest/bin/python
    chmod +x .venv/newest/bin/* ;;
  *) exit 9 ;;
esac
"""


@pytest.mark.parametrize(
    ("pythons", "told", "ran"),
    [
        ({}, ["No Python newer than 3.20"], None),
        ({19: (0, 0), 20: (0, 0)}, ["No Python newer than 3.20"], None),
        ({21: (0, 0), 22: (0, 0)}, [], 22),
        ({21: (0, 0), 22: (1, 0), 23: (0, 1)}, ["3.22 is passed", "3.23 is passed"], 21),
        ({22: (0, 1)}, ["3.22 is passed over", "No Python newer than 3.20"], None),
    ],
)
def test_the_newest_python_that_can_be_used_runs_the_quick_tests(
    tmp_path, pythons, told, ran
):
    """With interpreters that only say what they are: early releases, and without wheels."""
    places = [tmp_path / name for name in (".ci", ".venv/bin", "path")]
    for place in places:
        place.mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "newest", places[0])
    scripts = {places[1] / "python": "#!/bin/sh\necho 20\n"}
    for minor, (early, broken) in pythons.items():
        name = f"python3.{minor}"
        scripts[places[2] / name] = FAKE.format(name=name, early=early, broken=broken)
    for path, text in scripts.items():
        path.write_text(text)
        path.chmod(0o755)
    path = f"{places[2]}:{os.defpath}"
    found = subprocess.run(
        [tmp_path / ".ci" / "newest"],
        env={**os.environ, "PATH": path},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    assert all(words in found for words in told)
    assert found.count("passed over") == sum("passed" in words for words in told)
    assert (f"ran python3.{ran} -m pytest @.ci/quick" in found) == (ran is not None)
    assert ("nothing more to run" in found) == (ran is None)


def test_the_quick_tests_are_there():
    quick = (ROOT / ".ci" / "quick").read_text().split()
    assert len(quick) > 5
    assert all((ROOT / path).is_file() for path in quick)
