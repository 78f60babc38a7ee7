"""The spectral density: exact for small networks, and within its errors for the others."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import jaxflow as jf


def dense(loss, network, part="hessian"):
    return jnp.linalg.eigvalsh(jf.hessian(loss, network, part=part).as_matrix())


def sampled(loss, network, **options):
    return jf.observables.spectral_density(loss, network, exact=0, **options)


@pytest.mark.parametrize("part", ["hessian", "gauss_newton"])
def test_small_networks_are_exact(problem, network, part):
    found = jf.observables.spectral_density(problem, network, part=part)
    wanted = dense(problem, network, part)
    np.testing.assert_allclose(found.values, wanted[None], atol=1e-12)
    np.testing.assert_allclose(found.trace, jnp.sum(wanted), rtol=1e-10)
    np.testing.assert_allclose(found.frobenius, jnp.linalg.norm(wanted), rtol=1e-10)
    assert found.trace_error == found.frobenius_error == 0
    density, error = found(jnp.linspace(-30, 60, 4000), width=0.5)
    assert jnp.all(error == 0)
    np.testing.assert_allclose(jnp.sum(density) * 90 / 3999, 1, rtol=1e-3)


def test_estimates_are_within_their_errors(problem, network):
    """Two hundred seeds: the scores of trace, norm and density have the unit variance."""
    grid = jnp.linspace(-5.0, 20.0, 12)
    exact = jf.observables.spectral_density(problem, network)
    sees = lambda found: (found.trace, found.frobenius, found(grid, width=2.0)[0])
    errors = lambda found: (
        found.trace_error,
        found.frobenius_error,
        found(grid, width=2.0)[1],
    )
    founds = [sampled(problem, network, probes=24, matvecs=40, seed=s) for s in range(200)]
    stack = lambda trees: jax.tree.map(lambda *rows: jnp.stack(rows), *trees)
    means, bars = stack([sees(f) for f in founds]), stack([errors(f) for f in founds])
    for mean, bar, truth in zip(means, bars, sees(exact), strict=True):
        scores = (mean - truth[None]) / bar
        # Few probes know their own spread badly, worst where few eigenvalues are.
        assert jnp.all(jnp.abs(jnp.mean(scores, axis=0)) < 0.5)
        assert jnp.all(jnp.std(scores, axis=0) < 1.6)
        assert jnp.all(jnp.std(scores, axis=0) > 0.7)


@pytest.mark.parametrize("size", [0.0, 1.0])
def test_weights_sum_to_one_where_krylov_spaces_are_exhausted(size):
    """The origin with decay has one eigenvalue, without it none but zero."""
    network = jf.DeepLinear((jnp.zeros((4, 4)), jnp.zeros((4, 4)), jnp.zeros((1, 4))))
    problem = jf.Regression.from_data(jnp.eye(4), jnp.ones((4, 1)))
    found = sampled(problem + jf.WeightDecay(size), network, probes=3, matvecs=30)
    np.testing.assert_allclose(jnp.sum(found.weights, axis=1), 1, rtol=1e-12)
    moments = jnp.sum(found.weights * found.values, axis=1)
    np.testing.assert_allclose(moments, 2 * size, atol=1e-12)
    np.testing.assert_allclose(found.trace, 36 * 2 * size, atol=1e-10)
    np.testing.assert_allclose(found.frobenius, 6 * 2 * size, atol=1e-10)
    # Moments of the quadrature are exact up to a high degree.
    density, error = found(jnp.array([2 * size]), width=1.0)
    np.testing.assert_allclose(density, 1 / jnp.sqrt(2 * jnp.pi), rtol=1e-9)
    np.testing.assert_allclose(error, 0, atol=1e-12)


def test_single_precision_stays_single(problem, network):
    cast = lambda tree: jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)
    found = sampled(cast(problem), cast(network), probes=200, matvecs=30)
    assert found.values.dtype == found.trace.dtype == jnp.float32
    wanted = dense(problem, network)
    np.testing.assert_allclose(jnp.sum(found.weights, axis=1), 1, rtol=1e-5)
    trace, norm = float(found.trace), float(found.frobenius)
    assert abs(trace - jnp.sum(wanted)) < 4 * float(found.trace_error)
    assert abs(norm - jnp.linalg.norm(wanted)) < 4 * float(found.frobenius_error)


@pytest.mark.parametrize("exact", [0, 100])
def test_trace_and_norm_have_exact_derivatives(problem, network, exact):
    def summary(network):
        found = jf.observables.spectral_density(problem, network, exact=exact, probes=4)
        return found.trace + found.frobenius

    direction = jax.tree.map(
        lambda w: jnp.cos(jnp.arange(w.size)).reshape(w.shape), network
    )
    slope = sum(
        jnp.vdot(a, b)
        for a, b in zip(
            jax.tree.leaves(jax.grad(summary)(network)),
            jax.tree.leaves(direction),
            strict=True,
        )
    )
    moved = lambda s: summary(jax.tree.map(lambda w, d: w + s * d, network, direction))
    np.testing.assert_allclose(slope, (moved(1e-5) - moved(-1e-5)) / 2e-5, rtol=1e-7)


def test_the_derivative_of_the_norm_at_zero_curvature_is_zero():
    network = jf.DeepLinear((jnp.zeros((4, 4)), jnp.zeros((4, 4)), jnp.zeros((1, 4))))
    problem = jf.Regression.from_data(jnp.eye(4), jnp.ones((4, 1)))
    slope = jax.grad(lambda n: jf.observables.spectral_density(problem, n).frobenius)(
        network
    )
    assert all(jnp.all(leaf == 0) for leaf in jax.tree.leaves(slope))


def test_a_preconditioner_divides(problem, network):
    sizes = jax.tree.map(lambda w: jnp.full_like(w, 4.0), network)
    found = jf.observables.spectral_density(problem, network, preconditioner=sizes)
    wanted = dense(problem, network) / 4
    np.testing.assert_allclose(found.values[0], wanted, atol=1e-12)


def test_densities_are_batched(problem):
    networks = jax.vmap(lambda k: jf.init.gaussian((5, 5, 5, 1), scale=0.4, key=k))(
        jr.split(jr.key(0), 3)
    )
    found = eqx.filter_vmap(lambda n: jf.observables.spectral_density(problem, n))(networks)
    assert found.values.shape == (3, 1, 55)


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"probes": 1}, r"probes=...\)` must be at least 2, but is 1"),
        ({"matvecs": 0}, r"matvecs=...\)` must be positive, but is 0"),
    ],
)
def test_options_are_checked(problem, network, options, fact):
    with pytest.raises(ValueError, match=fact):
        jf.observables.spectral_density(problem, network, **options)
