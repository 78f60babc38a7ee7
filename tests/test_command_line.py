"""The command line: answers at once, refuses before it runs, and stores what it ran."""

import functools as ft
import inspect
import json
import os
import shutil
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest

import jaxflow as jf
from jaxflow import runner
from jaxflow.cli import main
from jaxflow.papers import catalogue
from jaxflow.papers.marion_chizat_2024 import flat_minima
from jaxflow.sweeps.owned import stamp

SMALL = (
    "run flat-minima --data paper --quick --depth 2 --steps 200 --seeds 2 --scales 0.3 "
    "--residual-scales 0.5 --step-sizes 0.02 0.3"
)
starts = pytest.mark.parametrize("start", ["gaussian", "residual"])


def call(words):
    """Answer a command, and return the exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["jaxflow", *words.split()])
        patch.setenv("MPLBACKEND", "Agg")
        # In this process: functions that check their types at run time cannot be sent.
        patch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
        with pytest.raises(SystemExit) as exit:
            main()
    plt.close("all")
    return exit.value.code or 0


@pytest.fixture
def instead(monkeypatch):
    """Do something else than the experiment, under the same flags."""

    def replace(do):
        run = ft.wraps(flat_minima.run)(lambda **arguments: do())
        monkeypatch.setattr(flat_minima, "run", run)

    return replace


@pytest.fixture
def no_run(instead):
    instead(lambda: pytest.fail("it ran"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The directory of a small run, started once."""
    out = tmp_path_factory.mktemp("small") / "out"
    assert call(f"{SMALL} --out {out}") == 0
    return out


@pytest.fixture(scope="module")
def tree(finished):
    return jf.load(finished / "results.zarr")


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        ("list", "flat-minima: "),
        ("--help", "Training dynamics"),
        ("run flat-minima --help", "--residual-scales"),
        ("show --help", "STORE.figures"),
        ("report --help", "STORE.html"),
    ],
)
def test_answers_tell_what_there_is(capsys, words, fact):
    assert call(words) == 0
    assert fact in capsys.readouterr().out


@pytest.mark.parametrize("words", ["list", "--help", "run --help", "show --help"])
def test_answers_wait_for_no_slow_import(words):
    program = (
        "import atexit, sys\n"
        "slow = {'jax', 'numpy', 'importlib.metadata'}\n"
        "atexit.register(lambda: print('slow:', *slow & set(sys.modules)))\n"
        f"sys.argv = ['jaxflow', *{words.split()}]\n"
        "import jaxflow.cli as command\n"
        "command.main()"
    )
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.endswith("slow:\n")


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        ("flat-minmia", '"flat-minima"'),
        ("flat-minima --step-size 0.1", "--step-sizes"),
        ("flat-minima --depth 1", "`depth` must be at least 2, but is 1"),
        ("flat-minima --data diabtes", "Did you mean 'diabetes'?"),
        ("flat-minima --scales -0.3 0.2", "`scales` must hold"),
        ("flat-minima --scales 0", "`scales` must hold"),
        ("flat-minima --scales nan", "`scales` must hold"),
        ("flat-minima --scales", "`scales` must hold"),
        ("flat-minima --residual-scales -1", "`residual_scales` must hold"),
        ("flat-minima --step-sizes 0.1 0.1", "`step_sizes` must hold"),
    ],
)
def test_mistakes_are_told_before_anything_runs(tmp_path, monkeypatch, capsys, words, fact):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "sweep", lambda *_, **__: pytest.fail("it ran"))
    assert call(f"run {words}") != 0
    printed = capsys.readouterr()
    assert fact in printed.out + printed.err
    assert not list(tmp_path.iterdir())


WHOLE = [
    (name, option.name.replace("_", "-"))
    for name in catalogue.EXPERIMENTS
    for option in inspect.signature(catalogue.load_experiment(name).run).parameters.values()
    if "int" in str(option.annotation)
]


@pytest.mark.parametrize(("name", "option"), WHOLE, ids=map(" ".join, WHOLE))
def test_whole_numbers_are_whole(tmp_path, monkeypatch, capsys, name, option):
    experiment = catalogue.load_experiment(name)
    run = ft.wraps(experiment.run)(lambda **_: pytest.fail("it ran"))
    monkeypatch.setattr(experiment, "run", run)
    monkeypatch.chdir(tmp_path)
    for wrong in ("1.5", "1e23", "nan", "inf", "2147483648", "0x", "2.0000000000000000001"):
        assert call(f"run {name} --{option} {wrong}") == 2
        told = capsys.readouterr()
        printed = " ".join((told.out + told.err).replace("│", "").split())
        assert f"`--{option}` must be a whole number below 2147483648" in printed
        assert f"but is {wrong}." in printed
    assert not list(tmp_path.iterdir())


def test_a_whole_number_may_be_written_in_any_way(instead, tmp_path, tree):
    seen = []
    instead(lambda: seen.append(1) or tree.copy())
    assert call(f"{SMALL.replace('200', '2e2')} --seed 7.0 --out {tmp_path}/out") == 0
    arguments = json.loads(
        json.loads((tmp_path / "out" / "run.json").read_text())["arguments"]
    )
    assert (arguments["steps"], arguments["seed"]) == (200, 7)
    assert seen


@pytest.mark.usefixtures("no_run")
@pytest.mark.parametrize(
    ("file", "flags", "fact"),
    [
        ("out/run.json", "", "not a result"),
        ("out/run.json", "--overwrite", "not a result"),
        ("out.unfinished/thesis.txt", "", "not a result"),
        ("out.unfinished/thesis.txt", "--overwrite", "not a result"),
        ("out.unfinished/unfinished.json", "", "not a result"),
        ("out.unfinished/unfinished.json", "--overwrite", "not a result"),
        ("out/thesis.txt", "", "not a result"),
        ("out/thesis.txt", "--overwrite", "not a result"),
        ("out", "--overwrite", "not a result"),
    ],
)
def test_an_out_that_is_taken_is_left_untouched(tmp_path, capsys, file, flags, fact):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("before")
    assert call(f"{SMALL} --out {tmp_path}/out {flags}") == 2
    assert fact in capsys.readouterr().err
    assert (tmp_path / file).read_text() == "before"


@pytest.mark.usefixtures("no_run")
def test_an_out_that_cannot_be_written_is_refused_before_anything_runs(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert call(f"{SMALL} --out {tmp_path}/file/out") == 2
    assert f"{tmp_path}/file" in capsys.readouterr().err


@pytest.mark.usefixtures("no_run")
@pytest.mark.parametrize("data", ["", "--data diabetes"], ids=["by default", "by name"])
def test_results_go_by_the_names_of_experiment_and_data(
    tmp_path, monkeypatch, capsys, data
):
    (tmp_path / "results" / "flat-minima-diabetes").mkdir(parents=True)
    stamp(tmp_path / "results" / "flat-minima-diabetes" / "run.json", {}, [])
    monkeypatch.chdir(tmp_path)
    assert call(f"run flat-minima {data}") == 2
    assert "results/flat-minima-diabetes must be free" in capsys.readouterr().err


def test_a_run_that_fails_leaves_the_old_one(tmp_path, instead, monkeypatch, tree):
    instead(tree.copy)
    monkeypatch.setattr(flat_minima, "figures", lambda tree: [][1])
    (tmp_path / "out").mkdir()
    stamp(tmp_path / "out" / "run.json", {}, [])
    with pytest.raises(IndexError):
        call(f"{SMALL} --out {tmp_path}/out --overwrite")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "run.json"]


def test_a_run_takes_the_place_of_another_when_asked(tmp_path, instead, tree):
    instead(tree.copy)
    (tmp_path / "out").mkdir()
    stamp(tmp_path / "out" / "run.json", {}, ["old.png"])
    (tmp_path / "out" / "old.png").write_text("before")
    assert call(f"{SMALL} --out {tmp_path}/out --overwrite --seed 7") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not (tmp_path / "out" / "old.png").exists()
    assert jf.load(tmp_path / "out" / "results.zarr").attrs["arguments"].count('"seed": 7')


def test_a_run_leaves_results_a_table_a_stamp_and_six_figures(finished):
    figures = "flatness", "sharpness", "distance", "verdicts", "paths", "structure"
    names = {"results.zarr", "summary.csv", "run.json", *(f"{n}.png" for n in figures)}
    assert {path.name for path in finished.iterdir()} == names
    assert {path.read_bytes()[:4] for path in finished.glob("*.png")} == {b"\x89PNG"}
    assert [path.name for path in finished.parent.iterdir()] == ["out"]


def test_a_stamp_says_where_the_run_came_from(finished, tree):
    found = json.loads((finished / "run.json").read_text())
    assert {*found.pop("jaxflow")["holds"], "run.json"} == {
        path.name for path in finished.iterdir()
    }
    assert found.items() <= tree.attrs.items()
    assert {"experiment", "device", "commit", "created", "seconds"} <= found.keys()
    assert json.loads(found["arguments"])["step_sizes"] == [0.02, 0.3]
    assert {"jax", "jaxflow", "python"} <= json.loads(found["versions"]).keys()


def test_axes_have_names(tree, check_axes):
    check_axes(tree)


@starts
def test_flow_is_step_size_zero_beside_descent(tree, start):
    status = tree[start].status
    assert dict(status.sizes) == {"step_size": 3, "seed": 2, "scale": 1}
    assert status.step_size.to_numpy().tolist() == [0.0, 0.02, 0.3]
    assert np.isin(status, [jf.Status.CONVERGED, jf.Status.UNCONVERGED]).all()


@starts
def test_runs_that_converged_are_no_flatter_than_the_flattest_minimizer(tree, start):
    ends = tree[start].to_dataset().isel(record=-1)
    converged = ends.sharpness.where(ends.status == jf.Status.CONVERGED)
    assert converged.notnull().any()
    assert converged.min() >= ends.attrs["flattest_sharpness"] * (1 - 1e-6)


def test_residual_flow_converges(tree):
    assert (tree["residual"].status.sel(step_size=0.0) == jf.Status.CONVERGED).all()


def test_the_table_has_a_row_for_each_start_and_step_size(finished):
    lines = (finished / "summary.csv").read_text().splitlines()
    rows = [tuple(line.split(",")[:2]) for line in lines[1:]]
    sizes = ("flow", "0.02", "0.3")
    assert rows == [(start, size) for start in ("gaussian", "residual") for size in sizes]


def test_a_run_can_be_shown_again(finished, tmp_path, monkeypatch, capsys):
    """From its directory, or from the store in it; by default beside what was named."""
    shutil.copytree(finished / "results.zarr", tmp_path / "results.zarr")
    monkeypatch.chdir(tmp_path)
    assert call("show results.zarr") == 0
    told = capsys.readouterr().out
    assert "No minimizer has a sharpness below" in told
    for fact in ("neighboring layers", "data=paper", "jaxflow 0.", "6 figures are in"):
        assert fact in told
    drawn = tmp_path / "results.zarr.figures"
    names = {path.name for path in finished.glob("*.png")}
    assert {path.name for path in drawn.iterdir()} == names | {"provenance.json"}
    assert call("show results.zarr") == 2
    assert "must be free" in capsys.readouterr().err
    assert call(f"report {finished} --out page.html") == 0
    page = (tmp_path / "page.html").read_text()
    assert page.count('src="data:image/png;base64,') == 6
    assert page.count("<tr>") > 6


@pytest.mark.parametrize("command", ["show", "report"])
def test_what_cannot_be_shown_takes_one_line(tmp_path, monkeypatch, capsys, command):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "zarr.json").write_text("{]")
    (tmp_path / "thesis").mkdir()
    monkeypatch.chdir(tmp_path)
    for store, fact in (
        ("nothing", "there is nothing"),
        ("thesis", "must be a store"),
        ("broken", "cannot be read"),
    ):
        assert call(f"{command} {store}") == 2
        error = capsys.readouterr().err
        assert error.startswith("jaxflow: ")
        assert fact in error
        assert error.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"broken", "thesis"}


def test_an_interrupted_run_goes_on_and_is_of_one_request(tmp_path, monkeypatch, capsys):
    def full(_):
        raise OSError("no space left")

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(flat_minima, "summary", full)
        assert call(f"{SMALL} --out {out}") == 2
    assert "no space left" in capsys.readouterr().err
    stores = tmp_path / "out.unfinished" / "sweeps"
    made = {store.name: (store / "zarr.json").stat().st_mtime for store in stores.iterdir()}
    assert set(made) == {"gaussian", "gaussian-flow", "residual", "residual-flow"}
    assert call(f"{SMALL} --seed 7 --out {out}") == 2
    assert "another request (seed was 0)" in capsys.readouterr().err
    again = {
        store.name: (store / "zarr.json").stat().st_mtime for store in stores.iterdir()
    }
    assert again == made
    assert call(f"{SMALL} --out {out}") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_with_several_cores_each_sweeps_in_a_process(tmp_path, tree):
    program = (
        "import os, sys\n"
        "os.sched_getaffinity = lambda _: {0, 1}\n"
        f"sys.argv = ['jaxflow', *{SMALL.split()}, '--out', '{tmp_path}/out']\n"
        "import jaxflow.cli as command\n"
        "command.main()"
    )
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert "gaussian-flow: done in" in done.stdout
    other = jf.load(tmp_path / "out" / "results.zarr")
    for start in ("gaussian", "residual"):
        np.testing.assert_allclose(other[start].sharpness, tree[start].sharpness, rtol=1e-9)
