"""Curvature: against dense eigenvalues, where those are simple and where they are not."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import jaxflow as jf
from jaxflow.theory import marion_chizat_2024 as theory


def dense(loss, network):
    return jnp.linalg.eigvalsh(jf.hessian(loss, network).as_matrix())[::-1]


@pytest.mark.parametrize("number", range(3))
def test_hessian_agrees_with_the_independent_implementation(reference, number):
    case = reference["hessian_cases"][number]
    readout = None if case["p"] is None else np.array(case["p"])
    problem = jf.regression(np.array(case["X"]), np.array(case["y"]), readout=readout)
    network = jf.DeepLinear(tuple(jnp.atleast_2d(jnp.array(w)) for w in case["Ws"]))
    eigenvalues = dense(problem, network)
    np.testing.assert_allclose(problem(network), case["loss"], rtol=1e-10)
    np.testing.assert_allclose(eigenvalues[:5], case["eigs_top5"], rtol=1e-10)
    np.testing.assert_allclose(eigenvalues[-1], case["lam_min"], rtol=1e-10)
    np.testing.assert_allclose(eigenvalues.sum(), case["hess_trace"], rtol=1e-10)
    np.testing.assert_allclose(jf.sharpness(problem, network), case["lam_max"], rtol=1e-10)
    squared = jf.gradient_norm(problem, network) ** 2
    np.testing.assert_allclose(squared, case["grad_norm_sq"], rtol=1e-10)


def test_nonlinear_networks_agree_with_the_independent_implementation(reference):
    case = reference["gelu_case"]
    loss = jf.MeanSquaredError(np.array(case["X"]), np.array(case["y"]))

    class Gelu(eqx.Module):
        weights: tuple

        def __call__(self, x):
            for w in self.weights[:-1]:
                x = jax.nn.gelu(w @ x)
            return self.weights[-1] @ x

    network = Gelu(tuple(jnp.atleast_2d(jnp.array(w)) for w in case["Ws"]))
    values = jf.spectrum(loss, network, largest=1, smallest=1).values
    wanted = case["tanh_approx"]
    np.testing.assert_allclose(loss(network), wanted["loss"], rtol=1e-10)
    np.testing.assert_allclose(values, [wanted["lam_max"], wanted["lam_min"]], rtol=1e-9)


def places(problem):
    """Where eigenvalue tools go wrong: few distinct eigenvalues, or both signs, or none."""
    minimum = theory.balanced_minimiser(problem, 3)
    somewhere = jf.init.gaussian((5, 5, 5, 1), scale=0.4, key=jr.key(1))
    return {
        "somewhere": somewhere,
        "near a saddle": jax.tree.map(lambda w: 0.2 * w, somewhere),
        "balanced minimum": minimum,
        "flattest minimum": theory.flattest_minimiser(problem, 3),
        "origin": jax.tree.map(jnp.zeros_like, minimum),
        "far away": jax.tree.map(lambda w: 10 * w, somewhere),
    }


@pytest.mark.parametrize("place", places(jf.regression(jnp.eye(5), jnp.ones((5, 1)))))
def test_extreme_eigenvalues_are_right_everywhere(problem, place):
    network = places(problem)[place]
    wanted = dense(problem, network)
    found = jf.spectrum(problem, network, largest=4, smallest=3)
    scale = jnp.max(jnp.abs(wanted))
    assert found.converged
    wanted = jnp.concatenate([wanted[:4], wanted[-3:]])
    np.testing.assert_allclose(found.values, wanted, atol=1e-9 * scale)
    assert jnp.all(jnp.abs(found.values - wanted) <= found.bounds)
    assert jnp.all(found.bounds <= 1e-10 * scale)


def test_vectors_are_unit_eigenvectors(problem, network):
    found = jf.spectrum(problem, network, largest=2, smallest=1)
    images = jax.vmap(jf.hessian(problem, network).mv)(found.vectors)
    flat = lambda tree: jnp.concatenate(
        [w.reshape(3, -1) for w in jax.tree.leaves(tree)], 1
    )
    vectors, images = flat(found.vectors), flat(images)
    np.testing.assert_allclose(vectors @ vectors.T, jnp.eye(3), atol=1e-8)
    np.testing.assert_allclose(images, found.values[:, None] * vectors, atol=1e-7)


def test_repeated_eigenvalues_are_found_as_often_as_they_occur():
    """White inputs and equal singular values: the top eigenvalue of depth 2 is fourfold."""
    problem = jf.regression(2.0 * jnp.eye(4), jnp.diag(jnp.array([2.0, 2.0, 1.0, 0.5])))
    network = jf.init.balanced(problem.target, 2)
    wanted = dense(problem, network)
    assert wanted[0] - wanted[3] < 1e-10
    found = jf.spectrum(problem, network, largest=6)
    np.testing.assert_allclose(found.values, wanted[:6], rtol=1e-9)


def test_repeated_eigenvalues_are_found_among_many_others():
    """A Krylov space shows each of them once, and this one is far from exhausted."""
    crowd = jnp.linspace(0.0, 0.3, 60)
    variances = jnp.concatenate([jnp.array([1.0, 1.0, 0.8]), crowd])
    problem = jf.Regression(jnp.ones((1, 63)), jnp.diag(variances), jnp.zeros(()))
    network = jf.DeepLinear((jnp.zeros((1, 63)),))
    found = jf.spectrum(problem, network, largest=2, rtol=1e-4)
    np.testing.assert_allclose(found.values, [2, 2], rtol=1e-4)


def test_bounds_are_never_violated():
    """Four hundred networks from the saddle to far away, in both precisions."""
    x = jr.normal(jr.key(0), (20, 4)) * jnp.array([[0.1, 0.5, 1.0, 3.0]])
    problem = jf.regression(x, jr.normal(jr.key(1), (20, 2)))
    scales = jnp.exp(jnp.linspace(-4, 1.5, 200))

    def errors(problem, key, scale):
        network = jf.init.gaussian((4, 6, 3, 2), scale=scale, key=key)
        network = jax.tree.map(lambda w: w.astype(problem.target.dtype), network)
        found = jf.spectrum(problem, network)
        double = jax.tree.map(lambda w: w.astype(float), (problem, network))
        error = jnp.abs(found.values[0].astype(float) - dense(*double)[0])
        return error, found.bounds[0].astype(float), found.converged

    batch = eqx.filter_jit(eqx.filter_vmap(errors, in_axes=(None, 0, 0)))
    for dtype in (jnp.float64, jnp.float32):
        cast = jax.tree.map(lambda leaf, dtype=dtype: leaf.astype(dtype), problem)
        error, bound, converged = batch(cast, jr.split(jr.key(2), 200), scales)
        assert jnp.all(converged)
        # Rounding of the loss's own terms, which cancel near the saddle, comes on top.
        assert jnp.all(error <= bound + 20 * float(jnp.finfo(dtype).eps))


def test_the_largest_signed_eigenvalue_is_not_the_largest_modulus(problem):
    """Where power iteration returns the modulus of the smallest."""
    keys = jr.split(jr.key(0), 40)
    networks = jax.vmap(lambda k: jf.init.gaussian((5, 5, 5, 1), scale=0.2, key=k))(keys)
    both = jax.vmap(lambda n: jf.spectrum(problem, n, largest=1, smallest=1).values)(
        networks
    )
    exact = jax.vmap(lambda n: dense(problem, n))(networks)
    assert jnp.any(-both[:, 1] > both[:, 0] * 1.01)
    np.testing.assert_allclose(both[:, 0], exact[:, 0], rtol=1e-9)
    np.testing.assert_allclose(both[:, 1], exact[:, -1], rtol=1e-9)


def test_a_budget_that_is_too_small_is_admitted():
    """Many crowded eigenvalues, and products for one cycle only."""
    spread = jnp.linspace(1.0, 1.01, 60)
    problem = jf.Regression(jnp.ones((1, 60)), jnp.diag(spread), jnp.zeros(()))
    network = jf.DeepLinear((jnp.zeros((1, 60)),))
    short = jf.spectrum(problem, network, max_matvecs=1)
    assert not short.converged
    assert jnp.abs(short.values[0] - 2.02) <= short.bounds[0] + 1e-6
    full = jf.spectrum(problem, network)
    assert full.converged
    np.testing.assert_allclose(full.values[0], 2.02, rtol=1e-9)


@pytest.mark.parametrize("widths", [(1, 1), (3, 1), (1, 1, 1, 1)])
def test_tiny_networks(widths):
    problem = jf.regression(
        jr.normal(jr.key(0), (6, widths[0])), jr.normal(jr.key(1), (6, 1))
    )
    network = jf.init.gaussian(widths, scale=0.7, key=jr.key(2))
    wanted = dense(problem, network)
    np.testing.assert_allclose(jf.sharpness(problem, network), wanted[0], rtol=1e-10)
    everything = jf.spectrum(problem, network, largest=wanted.size)
    np.testing.assert_allclose(everything.values, wanted, atol=1e-10 * jnp.max(wanted))


def test_sharpness_has_the_derivative_of_the_dense_eigenvalue(problem, network):
    ours = jax.grad(jf.sharpness, argnums=(0, 1))(problem, network)
    wanted = jax.grad(lambda p, n: dense(p, n)[0], argnums=(0, 1))(problem, network)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)


def test_sharpness_has_a_forward_derivative(problem, network):
    _, slope = jax.jvp(lambda n: jf.sharpness(problem, n), (network,), (network,))
    step = 1e-5
    moved = lambda s: jf.sharpness(problem, jax.tree.map(lambda w: (1 + s) * w, network))
    np.testing.assert_allclose(slope, (moved(step) - moved(-step)) / (2 * step), rtol=1e-7)


def test_weight_decay_raises_every_curvature(problem, network):
    raised = jf.sharpness(problem + jf.WeightDecay(0.3), network)
    np.testing.assert_allclose(raised, jf.sharpness(problem, network) + 0.6, rtol=1e-10)


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("readout", [False, True])
def test_small_matrix_is_the_hessian_at_a_minimum(outputs, readout):
    fixed = jr.normal(jr.key(3), (outputs, 4)) if readout else None
    last = 4 if readout else outputs
    problem = jf.regression(
        jr.normal(jr.key(0), (9, 3)), jr.normal(jr.key(1), (9, outputs)), readout=fixed
    )
    target = problem.target if fixed is None else jnp.linalg.pinv(fixed) @ problem.target
    network = jf.init.balanced(target, 3, width=4)
    assert network.widths == (3, 4, 4, last)
    exact = jf.gauss_newton_spectrum(problem, network)
    wanted = dense(problem, network)
    assert exact.shape == (3 * outputs,)
    np.testing.assert_allclose(exact, wanted[: exact.size], rtol=1e-9)
    np.testing.assert_allclose(wanted[exact.size :], 0, atol=1e-9)


def test_a_second_network_does_not_compile_again(problem):
    import jaxflow.observables.curvature as curvature

    networks = [jf.init.gaussian((5, 5, 5, 1), scale=0.3, key=jr.key(k)) for k in range(3)]
    jf.sharpness(problem, networks[0])
    before = curvature._spectrum._cached._cache_size()
    for network in networks:
        jf.sharpness(problem, network)
    assert curvature._spectrum._cached._cache_size() == before


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"largest": 56}, "between 1 and 55 eigenvalues"),
        ({"largest": 0}, "between 1 and 55 eigenvalues"),
        ({"smallest": -1}, "between 1 and 55 eigenvalues"),
        ({"max_matvecs": 0}, "must be positive, but is 0"),
    ],
)
def test_options_are_checked(problem, network, options, fact):
    with pytest.raises(ValueError, match=fact):
        jf.spectrum(problem, network, **options)
