"""The package as it is installed: built, complete, and at work where its source is not."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
# Python that runs elsewhere must not find the source.
ELSEWHERE = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
# Of the tests a cheap part, which imports everything and reads the files of the project.
TESTS = ("tests/test_architecture.py", "tests/test_project.py")


def call(*words, where):
    done = subprocess.run(
        [str(word) for word in words],
        cwd=where,
        env=ELSEWHERE,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(kind, source, out):
    """A distribution of a source tree, without isolation and so without a network."""
    call(sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", out, where=source)
    [made] = out.iterdir()
    return made


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return build("sdist", ROOT, tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def source(archive, tmp_path_factory):
    """The source distribution, unpacked."""
    out = tmp_path_factory.mktemp("source")
    call(sys.executable, "-m", "tarfile", "-e", archive, out, where=out)
    [tree] = out.iterdir()
    return tree


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    """Built from the source distribution, as package managers do."""
    return build("wheel", source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """A fresh one that holds the wheel alone, and sees the dependencies of this one."""
    pytest.importorskip("pip")
    out = tmp_path_factory.mktemp("environment")
    venv.create(out, symlinks=True)
    pip = (sys.executable, "-m", "pip", "--python", out / "bin" / "python")
    call(*pip, "install", "-q", "--no-deps", "--no-index", wheel, where=out)
    [packages] = out.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return out


def test_the_source_distribution_holds_all_that_git_does(archive):
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout")
    tracked = call("git", "ls-files", where=ROOT).splitlines()
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {name for name in tracked if (ROOT / name).exists()} <= names
    assert not any("__pycache__" in name or ".venv" in name for name in names)


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    code = {p for p in (ROOT / "jaxflow").rglob("*.py*") if p.suffix != ".pyc"}
    package = {str(path.relative_to(ROOT)) for path in code} | {"jaxflow/py.typed"}
    assert "jaxflow/__init__.pyi" in package
    about = {name for name in names if ".dist-info/" in name}
    assert names - about == package
    stem = wheel.name.removesuffix("-py3-none-any.whl")
    files = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}
    assert about == {f"{stem}.dist-info/{name}" for name in files}


def test_the_readme_works_with_the_wheel(environment, tmp_path):
    block = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0]
    shown = "jnp.mean(slopes)"
    code = f"{block}\nprint(jf.__file__, round(float({shown}), 4))"
    where, number = call(environment / "bin" / "python", "-c", code, where=tmp_path).split()
    assert Path(where).is_relative_to(environment)
    assert f"{shown}  # {number}" in README


def test_the_command_works_with_the_wheel(environment, tmp_path):
    command = environment / "bin" / "jaxflow"
    assert "list" in call(command, "--help", where=tmp_path)
    assert "flat-minima: " in call(command, "list", where=tmp_path)
    version = call(command, "--version", where=tmp_path).strip()
    assert (
        f"version = {version!r}".replace("'", '"') in (ROOT / "pyproject.toml").read_text()
    )


def test_tests_of_the_source_distribution_pass_with_the_wheel(
    source, environment, tmp_path
):
    alone = tmp_path / "alone"
    shutil.copytree(source, alone, ignore=lambda *_: {"jaxflow"})
    pytest_alone = ("-m", "pytest", "-q", "-o", "addopts=", "-p", "no:cacheprovider")
    words = (environment / "bin" / "python", *pytest_alone, *TESTS)
    assert "passed" in call(*words, where=alone)
