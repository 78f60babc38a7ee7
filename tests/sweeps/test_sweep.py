"""Sweeps: each member is the run alone, whatever its neighbors do, and is labeled."""

import diffrax as dfx
import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
import xarray as xr

import jaxflow as jf
from jaxflow.sweeps.grid import Grid
from jaxflow.sweeps.programs import Program, Work

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
        observe = {"loss": jf.loss_value, "product": product}
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
    assert (point.status, point.num_steps) == (alone.status, alone.num_steps)


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
    assert (both.status.sel(scale=30.0) == jf.Status.MAX_STEPS).all()
    assert not (without.status == jf.Status.MAX_STEPS).any()
    xr.testing.assert_allclose(both.sel(scale=[0.3]), without, rtol=1e-9)


def test_dimensions_are_the_seed_the_axes_in_their_order_and_the_record(runs):
    assert runs.loss.dims == ("seed", "step_size", "scale", "record")
    assert runs.status.dims == runs.num_steps.dims == ("seed", "step_size", "scale")


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
        ({"scale": [dfx.Tsit5(), dfx.Euler()]}, 1, r"hold numbers, but 'scale'"),
        ({"scale": ["small", "large"]}, 1, r"hold numbers, but 'scale'.* in `static`"),
    ],
    ids=str,
)
def test_axes_that_make_no_grid_are_refused_before_anything_runs(axes, seeds, fact):
    run = lambda key, **point: pytest.fail("it ran")
    axes = {name: np.array(values) for name, values in axes.items()}
    with pytest.raises(ValueError, match=fact):
        jf.sweep(run, key=KEY, seeds=seeds, axes=axes)


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"static": {"depth": []}}, r"different values of 'depth', but holds \[\]"),
        ({"static": {"depth": [2, 3, 2]}}, r"'depth', but holds \[2, 3, 2\]"),
        ({"static": {"depth": 2}}, r"several values of 'depth', but holds 2"),
        ({"static": {"depth": "two"}}, r"several values of 'depth', but holds 'two'"),
        ({"static": {"depth": [2, "three"]}}, r"numbers or text, but 'depth'"),
        ({"static": {"depth": [dfx.Tsit5()]}}, r"'depth' holds .*Pass a mapping"),
        ({"static": {"scale": [2]}}, r"find \['scale'\] in `axes` or in `static`, not in"),
        ({"static": {"deptth": [2]}}, r"not 'deptth'\. Did you mean 'depth'\?"),
        ({"static": {"key": [2]}}, r"not 'key'"),
        ({}, r"has none for \['depth'\]"),
        ({"static": {"depth": [2]}, "chunk": 0}, r"chunk.* must be positive, but is 0"),
        ({"static": {"depth": [2]}, "client": "a cluster"}, r"needs a `path`"),
    ],
    ids=str,
)
def test_arguments_that_do_not_fit_are_refused_before_anything_runs(options, fact):
    def run(key, scale, depth, *, width=5):
        pytest.fail("it ran")

    with pytest.raises(ValueError, match=fact):
        jf.sweep(run, key=KEY, seeds=1, axes={"scale": [0.1, 0.2]}, **options)


@pytest.mark.parametrize("name", ["time", "num_steps", "status", "seed", "record", "scale"])
def test_an_observable_never_takes_the_place_of_another_variable(problem, name):
    def run(key, scale):
        start = jf.init.gaussian((5, 5, 1), scale=scale, key=key)
        return jf.gradient_descent(
            problem, start, 1, step_size=0.1, observe={name: jf.loss_value}
        )

    with pytest.raises(ValueError, match=name):
        jf.sweep(run, key=KEY, seeds=1, axes={"scale": SCALES})


def test_an_observable_that_is_a_tree_becomes_a_variable_for_each_leaf(problem):
    def run(key):
        start = jf.init.gaussian((5, 5, 1), scale=0.3, key=key)
        return jf.gradient_descent(
            problem, start, 2, step_size=0.1, observe={"network": jf.weights}
        )

    runs = jf.sweep(run, key=KEY, seeds=2)
    assert runs["network.weights.0"].shape == (2, 3, 5, 5)
    assert runs["network.weights.1"].shape == (2, 3, 1, 5)


def test_more_seeds_keep_the_results_of_the_first():
    run = lambda key: {"draw": jr.normal(key)}
    few, more = (jf.sweep(run, key=KEY, seeds=seeds, chunk=2) for seeds in (2, 5))
    xr.testing.assert_identical(more.isel(seed=slice(2)), few)


def test_keys_of_the_older_kind_are_the_same_seeds():
    run = lambda key: {"draw": jr.normal(key)}
    old = jf.sweep(run, key=jr.PRNGKey(5), seeds=3)
    xr.testing.assert_identical(old, jf.sweep(run, key=KEY, seeds=3))


@pytest.fixture(scope="module")
def depths(problem):
    """Depths whose observables, records and leaves differ in shape."""

    def run(key, depth, rule, scale):
        assert isinstance(depth, int)
        start = jf.init.gaussian((*[5] * depth, 1), scale=scale, key=key)
        observe = {
            "alignment": jf.alignment,
            "number": lambda loss, network: jnp.asarray(depth),
            "network": jf.weights,
        }
        return jf.gradient_descent(
            problem, start, 10 * depth, step_size=0.01, every=10, **rule, observe=observe
        )

    rules = {"plain": {}, "heavy": {"optimizer": eqx.Partial(optax.sgd, momentum=0.9)}}
    static, axes = {"depth": [2, 3], "rule": rules}, {"scale": SCALES}
    return jf.sweep(run, key=KEY, seeds=3, static=static, axes=axes, chunk=3)


def test_loop_axes_come_between_seeds_and_axes(depths):
    assert depths.num_steps.dims == ("seed", "depth", "rule", "scale")
    assert depths.depth.to_numpy().tolist() == [2, 3]
    assert depths.rule.to_numpy().tolist() == ["plain", "heavy"]


def test_values_of_loop_axes_reach_the_run_as_they_are(depths):
    assert (depths.num_steps == 10 * depths.depth).all()
    plain, heavy = (depths["network.weights.0"].sel(rule=r) for r in ("plain", "heavy"))
    assert (plain != heavy).isel(record=1, depth=0).any()


def test_what_is_shorter_at_a_loop_point_is_filled_up_at_its_end(depths):
    short, long = depths.sel(depth=2), depths.sel(depth=3)
    assert np.isposinf(short.time[..., 3]).all()
    assert np.isfinite(short.time[..., :3]).all()
    assert np.isfinite(long.time).all()
    assert short.alignment[..., 3, :].isnull().all()
    assert short.alignment[..., 1].isnull().all()
    assert short.alignment[..., :3, 0].notnull().all()
    assert long.alignment.notnull().all()


def test_integers_that_stand_for_nothing_are_those_that_the_variable_states(depths):
    short = depths.number.sel(depth=2)
    assert (short[..., :3] == 2).all()
    assert (short[..., 3] == depths.number.attrs["fill"]).all()


def test_a_leaf_that_only_some_loop_points_have_is_nan_at_the_others(depths):
    leaf = depths["network.weights.2"]
    assert leaf.sel(depth=2).isnull().all()
    assert leaf.sel(depth=3).notnull().all()


def test_a_variable_has_one_number_of_dimensions():
    run = lambda key, rank: {"zeros": jnp.zeros([2] * rank)}
    with pytest.raises(ValueError, match=r"'zeros'.* the shapes \[\(\), \(2,\)\]"):
        jf.sweep(run, key=KEY, seeds=1, static={"rank": [0, 1]})


def test_a_run_may_return_a_mapping_of_trees():
    run = lambda key, a: {"x": a * jnp.arange(3.0), "y": {"z": (a, jr.normal(key))}}
    runs = jf.sweep(run, key=KEY, seeds=2, axes={"a": [1.0, 2.0]})
    assert set(runs) == {"x", "y.z.0", "y.z.1"}
    assert runs.x.dims == ("seed", "a", "x_0")
    np.testing.assert_array_equal(runs.x[1, 1], [0.0, 2.0, 4.0])
    np.testing.assert_array_equal(runs["y.z.0"], [[1.0, 2.0]] * 2)


def test_a_run_that_returns_neither_is_refused():
    with pytest.raises(ValueError, match="but returned tuple"):
        jf.sweep(lambda key: (1.0, 2.0), key=KEY, seeds=1)


@pytest.mark.parametrize("chunk", [4, 5])
def test_chunks_that_do_not_divide_the_grid_change_only_the_rounding(descend, runs, chunk):
    axes = {"step_size": STEPS, "scale": SCALES}
    cut = jf.sweep(descend, key=KEY, seeds=2, axes=axes, chunk=chunk)
    xr.testing.assert_allclose(cut, runs, rtol=1e-10)


def test_a_chunk_of_any_size_is_chosen_from_the_memory_of_a_member():
    small = lambda key: {"x": jr.normal(key, (10,))}
    large = lambda key: {"x": jr.normal(key, (10_000_000,))[0]}
    for run, most in ((small, 1024), (large, 3)):
        keys = np.zeros((4, 2), np.uint32)
        program = Program(Work(run, Grid(4, {}, {}, (4,)), keys, "threefry2x32"), ())
        assert 1 <= program.most_members <= most
    assert program.most_members < 4


def test_each_loop_point_is_traced_once():
    traced = []

    def run(key, depth, a):
        traced.append(depth)
        return {"x": a * depth}

    axes = {"a": np.arange(7.0)}
    jf.sweep(run, key=KEY, seeds=3, static={"depth": [2, 3]}, axes=axes, chunk=2)
    assert traced == [2, 3]


def test_progress_says_how_many_chunks_are_done_and_how_many_runs_diverged(descend):
    said, axes = [], {"step_size": STEPS, "scale": SCALES}
    jf.sweep(descend, key=KEY, seeds=2, axes=axes, chunk=4, progress=said.append)
    assert said[-1].startswith("3 of 3 chunks, ")
    assert said[-1].endswith(" runs/s, 0 s left, 4 diverged")


def test_a_member_that_raises_is_named():
    def run(key, a):
        return {"x": eqx.error_if(a + jr.normal(key), a > 2, "too large")}

    with pytest.raises(RuntimeError, match=r"failed in chunk 1: seed=0 a=3.0\. .*throw"):
        jf.sweep(run, key=KEY, seeds=1, axes={"a": [1.0, 3.0]}, chunk=1)
