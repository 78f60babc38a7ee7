"""Small errors put into the library one at a time: does a test notice?

A tool for development, not run by CI. Whoever has changed much, or doubts the tests:

    python tests/mutations/mutate.py run       # One mutant after the other.
    python tests/mutations/mutate.py check     # Those who killed pass without a mutant.
    python tests/mutations/mutate.py report    # Who survived.

Works on a copy of the tree (`--copy`). `run` can be stopped at any time, and goes on from
there. Each mutant meets the tests that name its function, then those that name what calls
it, and so on, until one fails or `--budget` is spent; without checks of types and shapes,
which cost more than the tests. What survived, and why nobody minds, is in `survivors.md`.
"""

import argparse
import ast
import itertools as it
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple

# Programs compile quicker so. What forked processes need is imported once for all.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import cyclopts  # noqa: F401
import diffrax  # noqa: F401
import jax
import matplotlib.pyplot  # noqa: F401
import optax  # noqa: F401
import pytest
import scipy.integrate  # noqa: F401
import sklearn.datasets  # noqa: F401
import xarray  # noqa: F401

ROOT = Path(__file__).parents[2]
# Of the package, and of the tests.
MUTATED = (
    *("losses/*.py", "dynamics/*.py", "observables/*.py", "committee/*.py"),
    *("papers/*/theory.py", "papers/*/costs.py", "papers/*/overlap_kernels.py"),
    *("papers/*/references.py", "papers/*/saddles.py"),
)
TESTS = (
    *("losses/*.py", "dynamics/*.py", "observables/*.py", "committee/*.py"),
    *("papers/*/test_*_theory.py", "test_families.py"),
)
OPTIONS = (
    *(
        "-q",
        "-x",
        "--tb=line",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-p",
        "no:nbmake",
    ),
    *("-o", "addopts=", "-m", "not exhaustive", "-W", "ignore:Module already imported"),
)
COMPARED = {
    ast.Lt: ("<=", ">"),
    ast.LtE: ("<", ">="),
    ast.Gt: (">=", "<"),
    ast.GtE: (">", "<="),
    ast.Eq: ("!=",),
    ast.NotEq: ("==",),
    ast.In: ("not in",),
    ast.NotIn: ("in",),
    ast.Is: ("is not",),
    ast.IsNot: ("is",),
}
COMBINED = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.Pow: "*",
    ast.Mod: "//",
    ast.FloorDiv: "%",
    ast.BitAnd: "|",
    ast.BitOr: "&",
}
OPPOSITE = {"minimum": "maximum", "min": "max", "argmin": "argmax", "any": "all"}
OPPOSITE |= {then: first for first, then in OPPOSITE.items()}


class Mutant(NamedTuple):
    """What stands between two offsets of a file, and what takes its place."""

    path: str
    function: str
    line: int
    start: int
    end: int
    new: str
    kind: str


def mutants(path: Path) -> list[Mutant]:
    """All mutants of a file of the library."""
    source = path.read_text()
    tree = ast.parse(source)
    lengths = [len(line) for line in source.encode().splitlines(keepends=True)]
    begins = [0, *it.accumulate(lengths)]
    found = []

    def offsets(node):
        first = begins[node.lineno - 1] + node.col_offset
        return first, begins[node.end_lineno - 1] + node.end_col_offset

    def text(node):
        return source.encode()[slice(*offsets(node))].decode()

    def add(kind, function, start, end, new):
        name = str(path.relative_to(ROOT))
        line = source.encode()[:start].count(b"\n") + 1
        found.append(Mutant(name, function, line, start, end, new, kind))

    def swap(kind, function, first, then):
        """Put each in the other's place."""
        (a, b), (c, d) = offsets(first), offsets(then)
        between = source.encode()[b:c].decode()
        add(kind, function, a, d, text(then) + between + text(first))

    def operator(kind, function, left, right, news):
        """What stands between two operands."""
        start, end = offsets(left)[1], offsets(right)[0]
        between = source.encode()[start:end].decode()
        old = between.strip("() \n").split("#")[0].strip()
        for new in news:
            add(kind, function, start, end, between.replace(old, new, 1))

    def visit(node, function):
        match node:
            case ast.Raise() | ast.JoinedStr() | ast.Assert() | ast.Import():
                return
            case ast.Expr(value=ast.Constant()):  # A docstring.
                return
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                operator("comparison", function, left, right, COMPARED[type(op)])
            case ast.BinOp(left=left, op=op, right=right) if type(op) in COMBINED:
                operator("arithmetic", function, left, right, [COMBINED[type(op)]])
            case ast.BoolOp(op=op, values=[left, right, *_]):
                news = ["or" if isinstance(op, ast.And) else "and"]
                operator("logic", function, left, right, news)
            case ast.UnaryOp(operand=operand):
                kind = "negation"
                add(kind, function, *offsets(node), f"({text(operand)})")
            case ast.Constant(value=bool(value)):
                add("constant", function, *offsets(node), str(not value))
            case ast.Constant(value=int(value)):
                add("constant", function, *offsets(node), str(value + 1))
            case ast.Constant(value=float(value)):
                add("constant", function, *offsets(node), repr(10 * value + (value == 0)))
            case ast.Slice(lower=lower, upper=upper, step=None):
                for bound in (lower, upper):
                    if bound is not None:
                        add("slice", function, *offsets(bound), "")
            case ast.Attribute(attr=name) if name in OPPOSITE:
                end = offsets(node)[1]
                start = end - len(name)
                add("extremum", function, start, end, OPPOSITE[name])
            case ast.Name(id=name, ctx=ast.Load()) if name in OPPOSITE:
                add("extremum", function, *offsets(node), OPPOSITE[name])
            case ast.Call(func=called, args=[first, then, *_]):
                plain = not any(isinstance(a, ast.Starred) for a in (first, then))
                symmetric = text(called).endswith(("imum", "isinstance", "zip"))
                if plain and not symmetric:
                    swap("arguments", function, first, then)
        for name, child in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list"):
                continue
            for part in child if isinstance(child, list) else [child]:
                if isinstance(part, ast.AST):
                    visit(part, _outermost(part) if node is tree else function)

    visit(tree, "")
    # Swapping what is the same changes nothing.
    return [mutant for mutant in found if _put(source.encode(), mutant) != source.encode()]


def _outermost(statement: ast.stmt) -> str:
    """The name that others know it by: of methods and closures that of what holds them."""
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
        return statement.targets[0].id
    return getattr(statement, "name", "")


def _put(source: bytes, mutant: Mutant) -> bytes:
    """The source with the mutant in it."""
    return source[: mutant.start] + mutant.new.encode() + source[mutant.end :]


def sample(count: int, seed: int) -> list[Mutant]:
    """Mutants drawn without replacement from all files, in random order."""
    everyone = [m for file in _files("jaxflow", MUTATED) for m in mutants(file)]
    return random.Random(seed).sample(everyone, min(count, len(everyone)))


def _files(folder: str, patterns: tuple[str, ...]) -> list[Path]:
    return sorted(f for pattern in patterns for f in (ROOT / folder).glob(pattern))


class Calls:
    """Which tests come near a function: how many calls away, by names alone."""

    def __init__(self):
        callers, self.tests = {}, []
        for path in (ROOT / "jaxflow").rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    for name in _names(node):
                        callers.setdefault(name, set()).add(node.name)
        self.callers = callers
        for file in _files("tests", TESTS):
            self._read(file)

    def _read(self, file: Path):
        """What each test names, by way of fixtures, constants and helpers of its file."""
        body = ast.parse(file.read_text()).body
        uses = {}
        for node in body:
            names = _names(node)
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    uses |= dict.fromkeys(_names(target), names)
            elif hasattr(node, "name"):
                uses[node.name] = names
        for node in body:
            inside = node.body if isinstance(node, ast.ClassDef) else [node]
            prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
            for test in inside:
                name = getattr(test, "name", "")
                if not name.startswith("test_"):
                    continue
                known, new = set(), _names(test)
                while new:
                    known |= new
                    new = set().union(*(uses.get(n, ()) for n in new)) - known
                where = f"{file.relative_to(ROOT)}::{prefix}{name}"
                self.tests.append((where, known))

    def near(self, mutant: Mutant) -> list[str]:
        """The tests that may notice, those first that are most likely to."""
        distance, edge = {mutant.function: 0}, [mutant.function]
        while edge:
            then = {
                c for name in edge for c in self.callers.get(name, ())
            } - distance.keys()
            distance |= dict.fromkeys(then, distance[edge[0]] + 1)
            edge = sorted(then)
        found = []
        for test, names in self.tests:
            steps = [distance[name] for name in names if name in distance]
            own = Path(mutant.path).stem in test.split("::")[0]
            if steps:
                found.append((min(steps) - own, -len(steps), test))
        return [test for *_, test in sorted(found)]


def _names(tree: ast.AST) -> set[str]:
    """All identifiers, and arguments, which are fixtures."""
    fields = ("id", "attr", "arg", "name")
    names = {getattr(n, field, None) for n in ast.walk(tree) for field in fields}
    return {name for name in names if isinstance(name, str)}


class Witness:
    """A plugin of pytest that notes what happens, and stops when the budget is spent."""

    def __init__(self, copy: Path, budget: float):
        self.copy, self.budget = copy, budget
        self.seen = {"passed": 0, "failed": [], "finished": False}

    def pytest_sessionstart(self):
        # Most mutants leave most programs as they are: those are compiled once for all.
        jax.config.update("jax_compilation_cache_dir", str(self.copy / "compiled"))

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.seen["failed"].append(report.nodeid)
        self.seen["passed"] += report.when == "call" and report.passed
        self.write()

    def pytest_runtest_setup(self, item):
        if time.process_time() > self.budget:
            item.session.shouldstop = "The budget is spent."

    def write(self):
        (self.copy / "seen.json").write_text(json.dumps(self.seen))


def try_tests(copy: Path, tests: list[str], budget: float, *more: str) -> dict:
    """What these tests say in the copy, in a process of their own."""
    (copy / "seen.json").unlink(missing_ok=True)
    if not (child := os.fork()):
        resource.setrlimit(resource.RLIMIT_CPU, (int(2 * budget) + 60,) * 2)
        signal.alarm(int(20 * budget))  # Who waits for ever spends nothing.
        output = os.open(copy / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(copy)
        sys.path.insert(0, str(copy))
        os.environ["PYTHONPATH"] = str(copy)
        witness = Witness(copy, budget)
        code = pytest.main([*OPTIONS, *more, *tests], [witness])
        witness.seen |= {"finished": True, "code": int(code)}
        witness.write()
        os._exit(0)
    os.waitpid(child, 0)
    seen = copy / "seen.json"
    return json.loads(seen.read_text()) if seen.exists() else {"passed": 0, "failed": []}


def run(copy: Path, wanted: list[Mutant], results: Path, budget: float) -> None:
    """Try each mutant that has no result yet."""
    done = {tuple(row["mutant"]) for row in read(results)}
    calls = Calls()
    sound = try_tests(copy, ["tests/observables/test_progress.py"], budget)
    if sound["failed"] or not sound["passed"]:
        raise SystemExit(f"Tests fail without a mutant; see {copy / 'output.txt'}.")
    for mutant in wanted:
        if mutant in done:
            continue
        tests = calls.near(mutant)
        original = (ROOT / mutant.path).read_bytes()
        (copy / mutant.path).write_bytes(_put(original, mutant))
        try:
            seen = try_tests(copy, tests, budget) if tests else {"passed": 0, "failed": []}
        finally:
            (copy / mutant.path).write_bytes(original)
        # Code 2: it cannot be imported, or the budget was spent.
        broken = seen["passed"] == 0 and bool(tests)
        dead = bool(seen["failed"]) or broken or not seen.get("finished")
        row = {"mutant": mutant, "fate": "killed" if dead else "survived"} | seen
        row["was"] = original[mutant.start : mutant.end].decode()
        with results.open("a") as file:
            print(json.dumps(row), file=file)
        print(row["fate"], seen["passed"], mutant.path, mutant.line, end=" ")
        print(repr(row["was"]), "->", repr(mutant.new), *seen["failed"][:1], flush=True)


def check(copy: Path, results: Path) -> None:
    """Whether those who killed pass where there is no mutant: else they prove nothing."""
    killers = sorted({test for row in read(results) for test in row["failed"][:1]})
    seen = try_tests(copy, killers, 3600, "--maxfail=1000")
    print(f"{seen['passed']} of {len(killers)} pass without a mutant.", *seen["failed"])


def read(results: Path) -> list[dict]:
    """The results so far."""
    return [json.loads(line) for line in results.open()] if results.exists() else []


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("run", "check", "report"))
    parser.add_argument("--copy", type=Path, default=Path("results/mutations"))
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    seconds = "on a processor that a mutant must survive"
    parser.add_argument("--budget", type=float, default=100, help=f"seconds {seconds}")
    given = parser.parse_args()
    copy = given.copy.absolute()
    results = copy / "results.jsonl"
    if given.command != "report":
        ignored = shutil.ignore_patterns(".git", ".venv", "__pycache__", "results", "docs")
        shutil.copytree(ROOT, copy, ignore=ignored, dirs_exist_ok=True)
    if given.command == "run":
        run(copy, sample(given.count, given.seed), results, given.budget)
    elif given.command == "check":
        check(copy, results)
    else:
        rows = read(results)
        fates = [row["fate"] for row in rows]
        print({fate: fates.count(fate) for fate in sorted(set(fates))})
        for row in rows:
            if row["fate"] == "survived":
                mutant = Mutant(*row["mutant"])
                print(f"{mutant.path}:{mutant.line}: {row['was']!r} -> {mutant.new!r}")


if __name__ == "__main__":
    main()
