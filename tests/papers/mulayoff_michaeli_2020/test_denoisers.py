"""Denoisers on a small file: what is measured is what is there, and every run has a row."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import xarray as xr
from jax.flatten_util import ravel_pytree

import jaxflow as jf
from jaxflow.papers.mulayoff_michaeli_2020 import denoisers

# Wider than what has kernels of its own, which compile longer.
WIDTH, STEPS, DIVERGES = 26, 40, 30.0


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "images.npy"
    np.save(path, np.random.default_rng(0).uniform(size=(40, 2, 3)))
    return path


def options(images):
    quiet = {"seeds": 2, "progress": lambda _: None}
    return {"data": str(images), "noise": 0.5, "samples": 30, "width": WIDTH} | quiet


@pytest.fixture(scope="module")
def tree(images):
    """Some parts, in few steps."""
    few = {"only": ("depths", "linear", "residual"), "depths": (2,), "steps": STEPS}
    return denoisers.run(**options(images), **few, step_sizes=(0.01, DIVERGES))


@pytest.fixture(scope="module")
def traced(images):
    """All parts, of which nothing is computed: every number is one."""

    def sweep(name, run, *, key, seeds, axes, chunk):
        del chunk
        with jax.numpy_dtype_promotion("standard"):  # Optax mixes counts and numbers.
            end = jax.eval_shape(run, key, **{axis: jnp.ones(()) for axis in axes})
        variables = end.observed | {"time": end.time, "status": end.status}
        grid = {"seed": range(seeds)} | {axis: list(axes[axis]) for axis in axes}
        sizes = {axis: len(values) for axis, values in grid.items()}
        ones = {}
        for name, value in variables.items():
            dims = {
                **sizes,
                **dict(zip(("record", f"{name}_0"), value.shape, strict=False)),
            }
            ones[name] = (tuple(dims), np.ones(tuple(dims.values()), value.dtype))
        return xr.Dataset(ones, grid)

    return denoisers.run(**options(images), depths=(3, 2), sweep=sweep)


@pytest.fixture(scope="module")
def noisy(images):
    clean = np.load(images).reshape(40, 6)[:30]
    return denoisers._problems(clean, 0.5, jr.fold_in(jr.key(0), 1))[0]


def ends(tree, name):
    return tree[name].to_dataset().isel(record=-1)


def test_every_part_is_there_and_says_on_what(traced, check_axes):
    check_axes(traced)
    assert tuple(traced.children) == tuple(denoisers.EXPERIMENT.parts)
    for part in traced.children.values():
        words = "the first 30 of images.npy: 40 samples of 6 numbers, from 0.0"
        assert part.attrs["data"].startswith(words)


def test_starts_are_the_same_at_each_step_size(tree):
    for name in ("depths", "linear"):
        starts = tree[name].sharpness.isel(record=0)
        np.testing.assert_array_equal(*(starts.isel(step_size=k) for k in (0, 1)))
        assert len(np.unique(starts.isel(step_size=0))) == starts[..., 0].size


def test_sharpness_is_the_largest_eigenvalue_at_the_end(tree, noisy):
    """Against steps and a dense Hessian of a loss that is written out here."""
    start = denoisers._perceptron((6, WIDTH, 6), jr.split(jr.key(0), 2)[1])
    flat, unravel = ravel_pytree(start.weights)

    def loss(flat):
        first, last = unravel(flat)
        gaps = last @ jnp.maximum(first @ noisy.x.T, 0) - noisy.y.T
        return jnp.sum(gaps**2) / 30

    step = jax.jit(lambda flat: flat - 0.01 * jax.grad(loss)(flat))
    for _ in range(STEPS):
        flat = step(flat)
    dense = np.linalg.eigvalsh(np.asarray(jax.hessian(loss)(flat), float))
    found = ends(tree, "depths").sel(depth=2, step_size=0.01, seed=1)
    np.testing.assert_allclose(found.sharpness, dense[-1], rtol=1e-3)
    np.testing.assert_allclose(found.loss, loss(flat), rtol=1e-4)


def test_linear_networks_have_the_same_noisy_samples(tree, noisy):
    start = denoisers._normal((6, WIDTH, WIDTH, 6), 1.0, jr.split(jr.key(0), 2)[0])
    found = tree["linear"].loss.isel(record=0, step_size=0, seed=0)
    np.testing.assert_allclose(found, noisy(start), rtol=1e-5)


def test_what_diverges_is_marked(tree):
    status = ends(tree, "linear").status
    assert (status.sel(step_size=DIVERGES) == jf.Status.DIVERGED).all()
    assert (status.sel(step_size=0.01) != jf.Status.DIVERGED).all()
    table = denoisers.summary(tree)
    lost = table[(table.experiment == "linear") & table.run.str.endswith("30")]
    assert lost.verdict.tolist() == ["2 diverged"]
    assert lost.sharpness.tolist() == ["-"]
    assert lost.chance.tolist() == [f"{WIDTH**-0.5:.3f}"]


def test_every_run_has_a_row(traced):
    table = denoisers.summary(traced)
    counts = table.experiment.value_counts(sort=False).to_dict()
    assert counts == {"depths": 12, "linear": 6, "optimizers": 5, "residual": 4}
    assert table.run[0] == "depth 2, step size 0.001"
    limits = dict(zip(table.run, table["2/step"], strict=True))
    assert limits["GD, step size 0.001"] == "2000"
    assert limits["Adam, batches of 3, step size 0.001"] == "-"
    assert "2 / step size" in denoisers.headline(traced)


def test_shallow_networks_have_no_further_layers(traced):
    layers = traced["depths"].coupling.notnull().sum("layer")
    assert (layers.sel(depth=2) == 2).all()
    assert (layers.sel(depth=3) == 3).all()


def test_zero_residuals_pass_every_signal_along_singular_vectors(tree):
    starts = tree["residual"].to_dataset().sel(start="zero").isel(record=0)
    np.testing.assert_allclose(starts.coupling, 1, rtol=1e-5)
    np.testing.assert_array_equal(starts.top, 0)


def test_figures_name_data_and_depth(traced):
    drawn = denoisers.figures(traced)
    assert set(drawn) == set(denoisers.EXPERIMENT.parts)
    title = drawn["depths"].get_suptitle()
    assert "images.npy" in title
    assert "0.5" in title
    assert [axis.get_title() for axis in drawn["depths"].axes[:2]] == ["depth 2", "depth 3"]


def test_figures_show_what_diverged(tree):
    [_, ends, *_] = denoisers.figures(tree)["linear"].axes
    assert "diverged" in [text.get_text() for text in ends.get_legend().get_texts()]


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        ({"only": ("depht",)}, "depht"),
        ({"data": "nothing.npy"}, "no file 'nothing.npy'"),
        ({"noise": -1.0}, "must not be negative, but is -1"),
        ({"noise": float("nan")}, "must not be negative, but is nan"),
        ({"samples": 41}, "at most 40, but is 41"),
        ({"samples": 1}, "at least 2, but is 1"),
        ({"width": 1}, "`width` must be at least 2"),
        ({"depths": (1, 4)}, "`depths` must be at least 2, but is 1"),
        ({"depths": ()}, "`depths` must hold"),
        ({"step_sizes": (0.1, 0.1)}, "`step_sizes` must hold"),
        ({"step_sizes": (-0.1,)}, "`step_sizes` must hold"),
        ({"steps": 9}, "`steps` must be at least 10"),
        ({"seeds": 0}, "`seeds` must be at least 1"),
    ],
)
def test_other_requests_are_refused(images, arguments, fact):
    with pytest.raises(ValueError, match=fact):
        denoisers.run(**{"data": str(images)} | arguments)
