"""The experiments of Marion & Chizat: their numbers, from independent runs of them."""

import json
from pathlib import Path

import jax.random as jr
import numpy as np
import pytest
from scipy.stats import fisher_exact

import jaxflow as jf
from jaxflow.papers._experiment import named
from jaxflow.papers._statistics import gap_regression
from jaxflow.papers.data import paper_data, paper_readout
from jaxflow.papers.marion_chizat_2024 import experiment as marion_chizat
from jaxflow.papers.marion_chizat_2024.experiment import _descents, _Plan, _problem

# Of an independent implementation in numpy: 20 runs a point (10 at the least step size).
FIGURES = Path(__file__).parents[2] / "data" / "marion_chizat_figures.json"
PUBLISHED = json.loads(FIGURES.read_text())
BUDGETS = {0.02: 10_000, 0.07: 4_000, 0.1: 4_000}
STARTS = {
    "gaussian": lambda key, s: jf.init.gaussian((*[5] * 10, 1), scale=s, key=key),
    "residual": lambda key, s: jf.init.residual(5, 10, scale=s, key=key),
}
SCALES = {"gaussian": (0.25, 0.444444, 0.522222), "residual": (0.0, 0.566667, 1.133333)}


@pytest.fixture(scope="module", params=STARTS)
def compared(request):
    """Runs at some points of the paper's grid, and what others found there."""
    kind, plan = request.param, _Plan(jr.key(1), 40, False, named)
    problem, scales = _problem(readout=kind == "residual"), SCALES[request.param]
    draw = STARTS[kind]
    runs = _descents(plan, kind, problem, draw, np.array(scales), BUDGETS, seeds=40)
    rows = [
        row
        for row in PUBLISHED
        if row["start"] == kind and row["step_size"] in BUDGETS and row["scale"] in scales
    ]
    assert len(rows) == 9
    places = [{"step_size": row["step_size"], "scale": row["scale"]} for row in rows]
    return [
        (runs.sel(place).isel(record=-1), row)
        for place, row in zip(places, rows, strict=True)
    ]


def test_shares_that_diverge_are_those_of_others(compared):
    for ends, row in compared:
        bad = int(ends.excess.isnull().sum())
        theirs = round(row["diverged"] * row["runs"])
        table = [[bad, 40 - bad], [theirs, row["runs"] - theirs]]
        assert fisher_exact(table).pvalue > 1e-3, row


def test_sharpness_at_the_end_is_that_of_others(compared):
    for ends, row in compared:
        some = ends.sharpness.dropna("seed")
        if row["sharpness"] is None or len(some) < 10:
            continue
        # Two means, of as many runs as survived; spreads are taken to be alike.
        error = float(some.std()) * (1 / len(some) + 1 / (row["runs"] / 2)) ** 0.5
        assert abs(float(some.mean()) - row["sharpness"]) < 4 * error + 0.02, row


def test_no_end_is_sharper_than_descent_allows(compared):
    for ends, row in compared:
        there = ends.sharpness.where(ends.excess < 1e-12)
        assert not (there > 2 / row["step_size"] * (1 + 1e-3)).any()


def test_residual_runs_read_the_paper_s_readout():
    readout, target = paper_readout(), jf.Regression.from_data(*paper_data()[:2]).target[0]
    assert np.linalg.norm(readout) == pytest.approx(1)
    assert readout @ target == pytest.approx(-0.125, abs=5e-4)


# All but the residual starts, which are the Gaussian ones in other words, and those that
# compile for minutes.
CHOSEN = ("gaussian", "depth", "series")
LONG = ("underdetermined", "gelu")


@pytest.fixture(scope="module")
def tree():
    quiet = lambda _: None
    return marion_chizat.run(only=CHOSEN, quick=True, seeds=2, progress=quiet)


@pytest.fixture(scope="module")
def long():
    quiet = lambda _: None
    return marion_chizat.run(only=LONG, quick=True, seeds=2, progress=quiet)


def test_what_was_chosen_is_there_in_the_order_of_the_paper(tree):
    assert tuple(tree.children) == CHOSEN


BOTH = [
    ("tree", "gaussian"),
    pytest.param("long", "underdetermined", marks=pytest.mark.exhaustive),
]


@pytest.mark.parametrize(("runs", "name"), BOTH)
def test_every_step_size_sees_the_starts_that_the_flow_sees(request, runs, name):
    starts = request.getfixturevalue(runs)[name].sharpness.isel(record=0)
    for step_size in starts.step_size:
        np.testing.assert_allclose(
            starts.sel(step_size=step_size), starts.sel(step_size=0), rtol=1e-6
        )


@pytest.mark.parametrize(("runs", "name"), BOTH)
def test_the_flow_arrives_above_the_least_sharpness(request, runs, name):
    tree = request.getfixturevalue(runs)
    limits = tree[name].to_dataset().sel(step_size=0).isel(record=-1)
    some = limits.where(limits.status == jf.Status.CONVERGED)
    assert some.sharpness.count() >= some.sharpness.size // 2
    assert (some.sharpness.min() >= tree[name].attrs["flattest_sharpness"] - 1e-6).all()


def test_descents_are_read_at_the_paper_s_numbers_of_steps(tree):
    times = tree["gaussian"].to_dataset().time.isel(record=-1)
    survivors = times.where(np.isfinite(times))
    wanted = {0.005: 20, 0.02: 20, 0.07: 28, 0.1: 40, 0.2: 40}  # A tenth of the paper's.
    for step_size, time in wanted.items():
        assert survivors.sel(step_size=step_size).max() == pytest.approx(time)


@pytest.mark.exhaustive
def test_signs_of_curvature_are_kept(long):
    runs = long["gelu"].to_dataset().isel(record=0)
    assert (runs.lowest < 0).all()
    assert (runs.sharpness > 0).all()


def test_every_experiment_has_a_row_and_a_figure(tree, check_axes):
    check_axes(tree)
    table = marion_chizat.summary(tree)
    assert set(table.experiment) == set(CHOSEN)
    assert set(marion_chizat.figures(tree)) == set(CHOSEN)
    assert "no minimizer is flatter than 18.6996" in marion_chizat.headline(tree)


@pytest.mark.exhaustive
def test_experiments_that_compile_long_have_rows_and_figures(long, check_axes):
    check_axes(long)
    assert set(marion_chizat.summary(long).experiment) == set(LONG)
    assert set(marion_chizat.figures(long)) == set(LONG)


@pytest.mark.exhaustive
def test_the_slope_of_the_gap_is_tested_in_the_right_tail(long):
    runs = long["underdetermined"].to_dataset().sel(step_size=[0.001])
    ends = runs.isel(record=-1)
    rising = runs.assign(generalization_gap=runs.sharpness**0.42)
    assert gap_regression(rising).slope == pytest.approx(0.42)
    assert gap_regression(rising).pvalue < 1e-6
    falling = runs.assign(generalization_gap=1 / runs.sharpness)
    assert gap_regression(falling).pvalue > 0.99
    assert ends.generalization_gap.notnull().any()


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [({"only": ("depht",)}, "depht"), ({"seeds": 0}, "must be at least 1, but is 0")],
)
def test_other_requests_are_refused(arguments, fact):
    with pytest.raises(ValueError, match=fact):
        marion_chizat.run(**arguments)
