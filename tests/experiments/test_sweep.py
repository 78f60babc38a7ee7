"""Sweeps: each member is the run alone, whatever its neighbours do, and is labelled."""

import diffrax as dfx
import jax.random as jr
import numpy as np
import pytest
import xarray as xr

import jaxflow as jf

STEPS, SCALES = np.array([0.02, 0.05, 50.0]), np.array([0.3, 0.5])
KEY = jr.key(5)


def product(loss, network):
    """An observable of two dimensions."""
    del loss
    return network.product


@pytest.fixture(scope="module")
def descend(problem):
    def run(key, step_size, scale):
        start = jf.init.gaussian((5, 5, 1), scale=scale, key=key)
        observe = {"loss": jf.value, "product": product}
        return jf.gradient_descent(
            problem, start, 30, step_size=step_size, every=10, observe=observe
        )

    return run


@pytest.fixture(scope="module")
def runs(descend):
    axes = {"step_size": STEPS, "scale": SCALES}
    return jf.sweep(descend, key=KEY, seeds=2, axes=axes)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("step_size", STEPS)
def test_a_point_of_a_sweep_is_the_run_alone(descend, runs, seed, step_size):
    alone = descend(jr.split(KEY, 2)[seed], step_size, 0.5)
    point = runs.sel(seed=seed, step_size=step_size, scale=0.5)
    np.testing.assert_allclose(point.loss, alone.observed["loss"], rtol=1e-9)
    np.testing.assert_allclose(point["product"], alone.observed["product"], rtol=1e-9)
    np.testing.assert_allclose(point.time, alone.time, rtol=1e-9)
    assert (point.status, point.steps) == (alone.status, alone.steps)


def test_every_point_sees_the_same_seeds(runs):
    starts = runs["product"].isel(record=0)
    assert np.array_equal(*(starts.sel(step_size=size) for size in STEPS[:2]))
    # Gaussian starts are linear in their scale, the product of two layers quadratic.
    small, large = (starts.sel(scale=scale) / scale**2 for scale in SCALES)
    np.testing.assert_allclose(small, large, rtol=1e-12)


def test_seeds_differ(runs):
    assert (runs.loss.sel(seed=0) != runs.loss.sel(seed=1)).isel(record=0).all()


def test_a_member_that_diverges_is_marked_and_leaves_the_others_as_they_are(descend, runs):
    axes = {"step_size": STEPS[:2], "scale": SCALES}
    without = jf.sweep(descend, key=KEY, seeds=2, axes=axes)
    assert (runs.status.sel(step_size=50.0) == jf.Status.DIVERGED).all()
    assert not (without.status == jf.Status.DIVERGED).any()
    xr.testing.assert_allclose(runs.sel(step_size=STEPS[:2]), without, rtol=1e-12)


def test_a_flow_that_fails_is_marked_and_leaves_the_others_as_they_are(problem):
    def run(key, scale):
        start = jf.init.gaussian((5, 5, 1), scale=scale, key=key)
        options = {"max_steps": 40, "throw": False, "adjoint": dfx.ForwardMode()}
        return jf.gradient_flow(problem, start, np.array([0, 0.5]), **options)

    sweep = lambda *scales: jf.sweep(
        run, key=KEY, seeds=2, axes={"scale": np.array(scales)}
    )
    both, without = sweep(0.3, 30.0), sweep(0.3)
    assert (both.status.sel(scale=30.0) == jf.Status.EXHAUSTED).all()
    assert not (without.status == jf.Status.EXHAUSTED).any()
    xr.testing.assert_allclose(both.sel(scale=[0.3]), without, rtol=1e-9)


def test_dimensions_are_the_seed_the_axes_in_their_order_and_the_record(runs):
    assert runs.loss.dims == ("seed", "step_size", "scale", "record")
    assert runs.status.dims == runs.steps.dims == ("seed", "step_size", "scale")


def test_coordinates_are_the_values_of_the_axes(runs):
    wanted = {"seed": [0, 1], "step_size": STEPS.tolist(), "scale": SCALES.tolist()}
    assert {
        name: values.to_numpy().tolist() for name, values in runs.coords.items()
    } == wanted


def test_further_dimensions_of_an_observable_are_numbered(runs):
    assert runs["product"].dims[4:] == ("product_0", "product_1")
    assert runs["product"].shape[4:] == (1, 5)


def test_a_status_says_what_its_numbers_mean(runs):
    attrs = runs.status.attrs
    meanings = dict(zip(attrs["flag_values"], attrs["flag_meanings"].split(), strict=True))
    wanted = {int(status): status.name.lower() for status in jf.Status}
    assert meanings == wanted | {-1: "pending"}


def test_an_axis_may_be_a_list_or_a_tuple(descend, runs):
    axes = {"step_size": STEPS.tolist(), "scale": tuple(SCALES.tolist())}
    xr.testing.assert_identical(jf.sweep(descend, key=KEY, seeds=2, axes=axes), runs)


def test_without_axes_a_sweep_is_over_seeds(descend):
    runs = jf.sweep(lambda key: descend(key, 0.02, 0.3), key=KEY, seeds=1)
    assert dict(runs.loss.sizes) == {"seed": 1, "record": 4}


@pytest.mark.parametrize(
    ("axes", "seeds", "fact"),
    [
        ({"scale": []}, 1, r"different values of 'scale', but holds \[\]"),
        ({"scale": [0.1, 0.2, 0.1]}, 1, r"'scale', but holds \[0.1, 0.2, 0.1\]"),
        ({"scale": 0.1}, 1, r"'scale', but holds 0.1"),
        ({"seed": [1, 2]}, 1, r"\['seed'\]"),
        ({"record": [1, 2]}, 1, r"\['record'\]"),
        ({"status": [1, 2]}, 1, r"\['status'\]"),
        ({"scale": [0.1]}, 0, r"seeds.* must be positive, but is 0"),
    ],
    ids=str,
)
def test_axes_that_make_no_grid_are_refused_before_anything_runs(axes, seeds, fact):
    run = lambda key, **point: pytest.fail("it ran")
    axes = {name: np.array(values) for name, values in axes.items()}
    with pytest.raises(ValueError, match=fact):
        jf.sweep(run, key=KEY, seeds=seeds, axes=axes)


@pytest.mark.parametrize("name", ["time", "steps", "status", "seed", "record", "scale"])
def test_an_observable_never_takes_the_place_of_another_variable(problem, name):
    def run(key, scale):
        start = jf.init.gaussian((5, 5, 1), scale=scale, key=key)
        return jf.gradient_descent(
            problem, start, 1, step_size=0.1, observe={name: jf.value}
        )

    with pytest.raises(ValueError, match=name):
        jf.sweep(run, key=KEY, seeds=1, axes={"scale": SCALES})


def test_an_observable_that_is_a_tree_becomes_a_variable_for_each_leaf(problem):
    def run(key):
        start = jf.init.gaussian((5, 5, 1), scale=0.3, key=key)
        return jf.gradient_descent(
            problem, start, 2, step_size=0.1, observe={"network": jf.snapshot}
        )

    runs = jf.sweep(run, key=KEY, seeds=2)
    assert runs["network.weights.0"].shape == (2, 3, 5, 5)
    assert runs["network.weights.1"].shape == (2, 3, 1, 5)
