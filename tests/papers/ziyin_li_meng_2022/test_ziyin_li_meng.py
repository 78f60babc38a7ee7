"""The experiments of Ziyin, Li & Meng (2022), small."""

import jax
import numpy as np
import pytest

from jaxflow.papers.ziyin_li_meng_2022 import experiment

SMALL = ("phases", "landscape", "slices", "variance")
TRAINED = ("training", "trapping", "signal", "networks")


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
    """With the weights of the linear solution the origin seems to be a minimum of ReLU and
    swish networks; with weights that are corrected for their slope, it is none.
    """
    runs = tree["slices"].to_dataset()
    # The next order, at the step of the difference.
    np.testing.assert_allclose(runs.curvature_seen, runs.curvature, rtol=0.02)
    raw, corrected = runs.curvature_seen.transpose("weights", ...)
    np.testing.assert_array_equal(raw > 0, raw.activation.isin(["ReLU", "swish"]))
    assert (corrected < 0).all()


def test_landscapes_have_the_minima_of_their_regime(tree):
    """Zero is one from two hidden layers on; besides, one below the spinodal."""
    runs = tree["landscape"].to_dataset()
    for hidden in (1, 2, 3):
        for regime in ("below", "between", "above"):
            line = runs.above_zero.sel(hidden=hidden, regime=regime)
            slopes = np.sign(np.diff(line))
            zero = slopes[0] > 0
            inside = np.flatnonzero((slopes[:-1] < 0) & (slopes[1:] > 0))
            assert zero == (hidden > 1 or regime != "below")
            assert len(inside) == (regime == "below" or (hidden > 1 and regime != "above"))
            if len(inside):
                assert (line[inside[0] + 1] < 0) == (regime == "below")


@pytest.fixture(scope="module")
def trained():
    # Optax promotes; and it runs in threads, which a context does not reach.
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    options = {"data": "paper", "seeds": 3, "quick": True, "progress": lambda words: None}
    yield experiment.run(only=TRAINED, **options)
    jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.mark.exhaustive
class TestTraining:
    """Minutes of compiling; the notebook draws what `trapping` finds."""

    def test_every_part_has_rows_and_a_figure(self, trained, check_axes):
        check_axes(trained)
        assert set(experiment.summary(trained).experiment) == set(TRAINED)
        assert set(experiment.figures(trained)) == set(TRAINED)

    def test_nothing_ends_below_the_exact_minimum_and_the_flow_reaches_it(self, trained):
        runs = trained["training"].to_dataset()
        above = (runs["loss"] - runs.exact_loss) / runs.attrs["origin"]
        assert float(above.min()) > -1e-12
        weak = above.sel(decay_share=0.2)
        for method in ("flow", "descent", "Adam"):
            assert float(weak.sel(algorithm=method).min()) < 1e-3
        # Drawn noise keeps on moving.
        assert float(weak.sel(algorithm="SGD with dropout").min()) < 0.05

    def test_large_solutions_trap_starts_that_equal_ones_do_not(self, trained):
        """As the independent runs: none of unit size below the spinodal, but weak data."""
        runs = trained["trapping"].to_dataset()
        alive = runs["size"] > 1e-2
        unit, weak = (runs.sel(input_variance=v) for v in (1.0, 1e-3))
        assert alive.sel(input_variance=1.0)[..., unit.decay < 0.9 * unit.spinodal].all()
        # Just above it, descent is slow where the solution has been.
        above = unit.decay > 1.2 * unit.spinodal
        assert not alive.sel(input_variance=1.0)[..., above].any()
        dead = ~alive.sel(input_variance=1e-3)
        assert dead[..., weak.decay < weak.critical].any()
        # A larger start escapes from stronger decay.
        last = [float(weak.decay[~dead.sel(gain=g).all("seed")].max()) for g in weak.gain]
        assert last[0] <= last[1]

    def test_weak_signals_are_learned_from_where_there_is_a_solution(self, trained):
        runs = trained["signal"].to_dataset().sel(hidden=2)
        alive = runs.error < 0.99
        for name in ("linear", "tanh"):
            one = alive.sel(activation=name)
            assert not one[..., runs.signal < runs.least_signal].any()
            assert one[..., runs.signal > 1.5 * runs.least_signal].all()
        # With a slope of one half at zero it takes more.
        for name in ("ReLU", "swish"):
            count = alive.sel(activation=name).sum()
            assert count <= alive.sel(activation="linear").sum()

    def test_what_no_skip_goes_around_decides_whether_zero_is_a_saddle(self, trained):
        runs = trained["networks"].to_dataset()
        lowest = runs.lowest
        assert (lowest.sel(maps=1) < -1).all()  # Twice the signal, which is one.
        np.testing.assert_allclose(lowest.sel(maps=2), 0, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        ({"only": ("phase",)}, "must name some of phases, landscape, slices"),
        ({"seeds": 0}, "`seeds` must be at least 1"),
        ({"hidden": 0}, "`hidden` must be at least 1"),
        ({"variance": -1.0}, "must not be negative"),
    ],
)
def test_other_requests_are_refused(arguments, fact):
    with pytest.raises(ValueError, match=fact):
        experiment.run(**arguments)
