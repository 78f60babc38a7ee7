"""The experiments of Ziyin, Li & Meng (2022), small."""

import numpy as np
import pytest

from jaxflow.experiments import ziyin_li_meng as experiment

SMALL = ("phases", "slices", "variance")


@pytest.fixture(scope="module")
def tree():
    return experiment.run(only=SMALL, quick=True, progress=lambda words: None)


def test_every_part_has_rows_and_a_figure(tree, check_axes):
    check_axes(tree)
    table = experiment.summary(tree)
    assert set(table.experiment) == set(tree.children) == set(SMALL)
    figures = experiment.figures(tree)
    assert set(figures) == set(SMALL)
    assert all(axis.get_xlabel() for figure in figures.values() for axis in figure.axes)


def test_descent_follows_the_exact_branches(tree):
    """Second order with one hidden layer; hysteresis up to the spinodal with two."""
    runs = tree["phases"].to_dataset()
    exact = runs.sel(exact_decay=runs.decay).drop_vars("exact_decay")
    one, two = exact.sel(hidden=1), exact.sel(hidden=2)
    # Not where the curvature vanishes, and descent takes ever longer.
    steady = abs(np.log(one.decay)) > 0.3
    np.testing.assert_allclose(one.up[steady], one["size"][steady], atol=1e-3)
    np.testing.assert_allclose(one.down[steady], one["size"][steady], atol=1e-3)
    upper = two.branch.max("root").fillna(0)
    below = two.decay < 0.95 * float(two.spinodal[0])
    np.testing.assert_allclose(two.up[below], upper[below], atol=1e-3)
    np.testing.assert_allclose(two.up[two.decay > two.spinodal[0]], 0, atol=1e-3)
    np.testing.assert_allclose(two.down, 0, atol=1e-3)
    between = (two.decay > two.critical[0]) & (two.decay < two.spinodal[0])
    assert between.any()
    assert (two["size"][between] == 0).all()
    assert (two.up[between] > 0.3).all()


def test_transitions_of_unit_data_are_those_of_the_paper(tree):
    two = tree["phases"].to_dataset().sel(hidden=2)
    assert float(two.critical[0]) == pytest.approx(0.3968502630, abs=1e-9)
    assert float(two.spinodal[0]) == pytest.approx(0.4724703937, abs=1e-9)


def test_drawn_outputs_have_the_exact_variance(tree):
    runs = tree["variance"].to_dataset()
    for name in ("width", "hidden", "noise"):
        at = runs[f"{name}_drawn"].to_numpy()
        exact = runs[f"by_{name}"].sel({name: at}).to_numpy()
        error = runs[f"{name}_error"].to_numpy()
        assert np.all(abs(runs[f"{name}_mean"].to_numpy() - exact) < 4 * error + 1e-6)


def test_slices_curve_at_the_origin_as_theory_says(tree):
    """The slope-corrected ones, by finite differences of the loss."""
    runs = tree["slices"].to_dataset()
    line = runs["loss"].sel(weights="slope-corrected")
    step = float(runs.b[1] - runs.b[0])
    middle = int(np.argmin(abs(runs.b.to_numpy())))
    found = line.isel(b=middle + 1) + line.isel(b=middle - 1) - 2 * line.isel(b=middle)
    for name in ("linear", "tanh", "ReLU", "swish"):
        value = float(found.sel(activation=name)) / step**2
        wanted = float(runs.curvature.sel(activation=name))
        assert np.sign(value) == np.sign(wanted) == -1
        assert value == pytest.approx(wanted, rel=0.2)


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        ({"only": ("phase",)}, "must name some of phases, slices"),
        ({"seeds": 0}, "`seeds` must be at least 1"),
        ({"hidden": 0}, "`hidden` must be at least 1"),
        ({"variance": -1.0}, "must not be negative"),
    ],
)
def test_other_requests_are_refused(arguments, fact):
    with pytest.raises(ValueError, match=fact):
        experiment.run(**arguments)
