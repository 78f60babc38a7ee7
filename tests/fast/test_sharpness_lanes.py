"""Sharpness of one output, alone and in batches: the reduced routes against dense ones."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import jaxflow as jf
from jaxflow.papers import marion_chizat_2024 as theory


def dense(loss, network):
    return jnp.linalg.eigvalsh(jf.hessian(loss, network).as_matrix())


def gaussian(count, widths=(5, 5, 5, 1), scale=0.4):
    start = lambda key: jf.init.gaussian(widths, scale=scale, key=key)
    return jax.vmap(start)(jr.split(jr.key(1), count))


def zoo(problem):
    """More networks than a block holds, and in front those that make eigenvalues hard."""
    random = gaussian(150)
    sizes = jnp.exp(jnp.linspace(-4, 1.5, 150))[:, None, None]
    networks = jax.tree.map(lambda w: w * sizes, random)
    minimum = theory.balanced_minimizer(problem, 3)
    one = jax.tree.map(lambda w: w[0], random)
    empty = lambda k: eqx.tree_at(lambda n: n.weights[k], one, replace_fn=jnp.zeros_like)
    hard = [
        jax.tree.map(jnp.zeros_like, one),
        *(empty(k) for k in range(3)),
        minimum,
        theory.flattest_minimizer(problem, 3),
        jax.tree.map(lambda w, v: w + 1e-9 * v, minimum, one),
    ]
    stack = jax.tree.map(lambda *ws: jnp.stack(ws), *hard)
    return jax.tree.map(lambda w, v: w.at[: len(hard)].set(v), networks, stack)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_alone_and_in_batches_it_is_the_dense_eigenvalue(problem, dtype):
    networks = zoo(problem)
    problem, networks = jax.tree.map(lambda x: x.astype(dtype), (problem, networks))
    sharpness = lambda n: jf.sharpness(problem, n)
    broken = eqx.tree_at(
        lambda n: n.weights[1], networks, replace_fn=lambda w: w.at[9, 2, 3].set(jnp.nan)
    )
    together = np.array(jax.jit(jax.vmap(sharpness))(broken))
    alone = np.array(jax.jit(lambda ns: jax.lax.map(sharpness, ns))(broken))
    double = jax.tree.map(lambda x: x.astype(jnp.float64), (problem, networks))
    wanted = np.array(jax.vmap(lambda n: dense(double[0], n))(double[1]))
    assert np.mean(-wanted[:, 0] > 1.01 * wanted[:, -1]) > 0.1
    scale = np.maximum(np.abs(wanted).max(1), 1e-300)
    for found in (together, alone):
        assert found.dtype == dtype
        assert np.array_equal(np.flatnonzero(np.isnan(found)), [9])
        error = np.delete(np.abs(found - wanted[:, -1]) / scale, 9)
        assert np.max(error) < 50 * jnp.finfo(dtype).eps


@pytest.mark.parametrize("widths", [(5, 2, 7, 4), (3, 30, 1)])
def test_any_shape(widths):
    """Uneven, with a readout; and wider than those that are solved together."""
    readout = jnp.arange(1.0, 5.0) if widths[-1] > 1 else None
    x = jr.normal(jr.key(0), (2, widths[0]))  # Fewer samples than inputs.
    problem = jf.Regression.from_data(x, jnp.ones(2), readout=readout)
    networks = gaussian(6, widths, scale=0.6)
    found = jax.jit(jax.vmap(lambda n: jf.sharpness(problem, n)))(networks)
    wanted = jax.vmap(lambda n: dense(problem, n)[-1])(networks)
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_all_other_routes_agree(problem, network):
    x = jnp.linalg.cholesky(5 * problem.covariance).T
    samples = jf.MeanSquaredError(x, x @ problem.target.T)
    wanted = jf.sharpness(problem, network)
    ones, near = jax.tree.map(jnp.ones_like, network), jf.spectrum(problem, network)
    for found in (
        near.values[0],
        jf.sharpness(problem, network, preconditioner=ones),
        jf.sharpness(problem, network, start=near),
        jf.sharpness(samples, network),
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_derivatives_of_a_batch_are_those_of_the_dense_eigenvalue(problem):
    networks = gaussian(3)
    several = jax.vmap(lambda s: jf.Regression.from_data(jnp.eye(5), s * jnp.arange(5.0)))
    losses = several(jnp.array([0.2, 0.5, 1.0]))
    mean = lambda f: lambda *place: jnp.mean(jax.vmap(f)(*place))
    top = lambda *place: dense(*place)[-1]
    wanted = jax.jit(jax.grad(mean(top), argnums=(0, 1)))(losses, networks)
    whole = jax.jit(jax.grad(mean(jf.sharpness), argnums=(0, 1)))(losses, networks)
    each = jax.jit(jax.vmap(jax.grad(jf.sharpness, argnums=(0, 1))))(losses, networks)
    each = jax.tree.map(lambda g: g / 3, each)
    for found in (whole, each):
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-9)
    _, slope = jax.jvp(lambda n: mean(jf.sharpness)(losses, n), (networks,), (networks,))
    along = sum(
        jnp.vdot(g, w) for g, w in zip(wanted[1].weights, networks.weights, strict=True)
    )
    np.testing.assert_allclose(slope, along, rtol=1e-9)


def test_batches_of_batches_over_whatever_differs(problem):
    networks = gaussian(3)
    losses = [jf.Regression.from_data(jnp.eye(5), s * jnp.arange(5.0)) for s in (0.2, 1.0)]
    losses = jax.tree.map(lambda *xs: jnp.stack(xs), *losses)
    over_networks = jax.vmap(jf.sharpness, in_axes=(None, 0))
    table = jax.jit(jax.vmap(over_networks, in_axes=(0, None)))(losses, networks)
    over_losses = jax.vmap(jf.sharpness, in_axes=(0, None))
    other = jax.vmap(over_losses, in_axes=(None, 0))(losses, networks)
    wanted = jax.vmap(lambda loss: jax.vmap(lambda n: dense(loss, n)[-1])(networks))(losses)
    np.testing.assert_allclose(table, wanted, rtol=1e-12)
    np.testing.assert_allclose(other.T, wanted, rtol=1e-12)


def test_runs_over_seeds_observe_it(problem):
    """Recorded in a loop, inside a batch, of networks that the loop made."""
    watch = {"sharpness": jf.sharpness, "network": jf.weights}

    def run(key):
        start = jf.init.gaussian((5, 5, 5, 1), scale=0.4, key=key)
        return jf.gradient_descent(
            problem, start, 40, every=20, step_size=0.02, observe=watch
        )

    seen = eqx.filter_vmap(run)(jr.split(jr.key(2), 4)).observed
    again = jax.vmap(jax.vmap(lambda n: dense(problem, n)[-1]))(seen["network"])
    np.testing.assert_allclose(seen["sharpness"], again, rtol=1e-11)
