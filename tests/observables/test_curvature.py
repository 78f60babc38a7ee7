"""Curvature: against dense eigenvalues, where those are simple and where they are not."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import jaxflow as jf
from jaxflow.papers import marion_chizat_2024 as theory

NETWORK = jf.init.gaussian((5, 5, 5, 1), scale=0.4, key=jr.key(1))
PARTS = ("hessian", "gauss_newton", "residual")


def dense(loss, network):
    return jnp.linalg.eigvalsh(jf.hessian(loss, network).as_matrix())[::-1]


@pytest.mark.parametrize("number", range(3))
def test_hessian_agrees_with_the_independent_implementation(reference, number):
    case = reference["hessian_cases"][number]
    readout = None if case["p"] is None else np.array(case["p"])
    problem = jf.Regression.from_data(
        np.array(case["X"]), np.array(case["y"]), readout=readout
    )
    network = jf.DeepLinear(tuple(jnp.atleast_2d(jnp.array(w)) for w in case["Ws"]))
    eigenvalues = dense(problem, network)
    np.testing.assert_allclose(problem(network), case["loss"], rtol=1e-10)
    np.testing.assert_allclose(eigenvalues[:5], case["eigs_top5"], rtol=1e-10)
    np.testing.assert_allclose(eigenvalues[-1], case["lam_min"], rtol=1e-10)
    np.testing.assert_allclose(eigenvalues.sum(), case["hess_trace"], rtol=1e-10)
    np.testing.assert_allclose(jf.sharpness(problem, network), case["lam_max"], rtol=1e-10)
    squared = jf.observables.gradient_norm(problem, network) ** 2
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
    minimum = theory.balanced_minimizer(problem, 3)
    somewhere = jf.init.gaussian((5, 5, 5, 1), scale=0.4, key=jr.key(1))
    return {
        "somewhere": somewhere,
        "near a saddle": jax.tree.map(lambda w: 0.2 * w, somewhere),
        "balanced minimum": minimum,
        "flattest minimum": theory.flattest_minimizer(problem, 3),
        "origin": jax.tree.map(jnp.zeros_like, minimum),
        "far away": jax.tree.map(lambda w: 10 * w, somewhere),
    }


@pytest.mark.parametrize(
    "place", places(jf.Regression.from_data(jnp.eye(5), jnp.ones((5, 1))))
)
def test_extreme_eigenvalues_are_right_everywhere(problem, place):
    network = places(problem)[place]
    wanted = dense(problem, network)
    found = jf.spectrum(problem, network, largest=4, smallest=3)
    scale = jnp.max(jnp.abs(wanted))
    assert found.converged
    wanted = jnp.concatenate([wanted[:4], wanted[-3:]])
    np.testing.assert_allclose(found.values, wanted, atol=1e-9 * scale)
    assert jnp.all(jnp.abs(found.values - wanted) <= found.bounds)
    # And what underflow may have lost, for a Hessian of zeros has no scale.
    assert jnp.all(found.bounds <= 1e-10 * scale + 1e-304)


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
    problem = jf.Regression.from_data(
        2.0 * jnp.eye(4), jnp.diag(jnp.array([2.0, 2.0, 1.0, 0.5]))
    )
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


class Tanh(eqx.Module):
    weights: tuple

    def __call__(self, x):
        for w in self.weights[:-1]:
            x = jnp.tanh(w @ x)
        return self.weights[-1] @ x


def linear_case(key, kind, size):
    """A problem and a network of one shape: whatever makes eigenvalues hard."""
    keys = jr.split(key, 6)
    white = jnp.linalg.qr(jr.normal(keys[0], (20, 4)))[0] * 20**0.5
    spread = 10.0 ** jnp.linspace(0, -5, 4)[None]
    twice = white[:, jnp.array([0, 1, 0, 1])]
    x = jnp.stack([jr.normal(keys[0], (20, 4)), white * spread, twice, white, white])[kind]
    y = jr.normal(keys[1], (20, 2))
    target = y.T @ x / 20
    # Orthogonal targets: equal singular values.
    target = jnp.where(kind >= 3, jnp.linalg.qr(target.T)[0].T, target)
    target = jnp.where(kind == 1, jnp.linalg.lstsq(x, y)[0].T, target)
    network = jf.init.gaussian((4, 6, 3, 2), scale=size, key=keys[2])
    # Balanced and fitting, up to a perturbation.
    u, s, vt = jnp.linalg.svd(target, full_matrices=False)
    root = jnp.diag(s ** (1 / 3))
    fit = (jnp.zeros((6, 4)).at[:2].set(root @ vt), jnp.eye(3, 6).at[:2, :2].set(root))
    fit = (*fit, jnp.zeros((2, 3)).at[:, :2].set(u @ root))
    near = jax.tree.map(lambda w, noise: w + 1e-3 * noise, jf.DeepLinear(fit), network)
    network = jax.tree.map(lambda a, b: jnp.where(kind == 4, a, b), near, network)
    decay = jnp.where(jr.bernoulli(keys[3]), 0.3, 0.0)
    loss = jf.Regression(target, x.T @ x / 20, jnp.zeros(())) + jf.WeightDecay(decay)
    return loss, network


def nonlinear_case(key, kind, size):
    keys = jr.split(key, 5)
    x, y = jr.normal(keys[0], (20, 4)), jr.normal(keys[1], (20, 2))
    weights = (jr.normal(keys[2], (5, 4)), jr.normal(keys[3], (2, 5)))
    network = jax.tree.map(lambda w: size * w, Tanh(weights))
    return jf.MeanSquaredError(x, jnp.where(kind == 0, 0, y)), network


@pytest.mark.parametrize(("case", "cases"), [(linear_case, 450), (nonlinear_case, 50)])
def test_bounds_are_never_violated(case, cases):
    """A thousand cases in both precisions, from the origin to far away."""
    kinds = jnp.arange(cases) % 5
    sizes = jnp.exp(jnp.linspace(-4, 1.5, cases)).at[::10].set(0)

    def errors(loss, network):
        found = jf.spectrum(loss, network, largest=3, smallest=2)
        double = jax.tree.map(lambda w: w.astype(float), (loss, network))
        wanted = dense(*double)
        wanted = jnp.concatenate([wanted[:3], wanted[-2:]])
        error = jnp.abs(found.values.astype(float) - wanted)
        return error, found.bounds.astype(float), found.converged, jnp.max(jnp.abs(wanted))

    batch = jax.vmap(case)(jr.split(jr.key(2), cases), kinds, sizes)
    measure = eqx.filter_jit(eqx.filter_vmap(errors))
    for dtype in (jnp.float64, jnp.float32):
        cast = jax.tree.map(lambda leaf, dtype=dtype: leaf.astype(dtype), batch)
        error, bound, converged, scale = measure(*cast)
        assert jnp.all(converged)
        assert jnp.all(error <= bound)
        # And they say something: near the tolerance, but where rounding is worse.
        told = jnp.max(bound, axis=1) <= 10 * float(jnp.finfo(dtype).eps) ** (2 / 3) * scale
        assert jnp.mean(told) > 0.8


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
    problem = jf.Regression.from_data(
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
    problem = jf.Regression.from_data(
        jr.normal(jr.key(0), (9, 3)), jr.normal(jr.key(1), (9, outputs)), readout=fixed
    )
    target = problem.target if fixed is None else jnp.linalg.pinv(fixed) @ problem.target
    network = jf.init.balanced(target, 3, width=4)
    assert network.widths == (3, 4, 4, last)
    exact = jf.observables.linear_gauss_newton_spectrum(problem, network)
    wanted = dense(problem, network)
    assert exact.shape == (3 * outputs,)
    np.testing.assert_allclose(exact, wanted[: exact.size], rtol=1e-9)
    np.testing.assert_allclose(wanted[exact.size :], 0, atol=1e-9)


def test_the_parts_add_up_and_are_those_of_the_definition(problem, network):
    loss = problem + jf.WeightDecay(0.3)
    parts = {p: jf.hessian(loss, network, part=p).as_matrix() for p in PARTS}
    together = parts["gauss_newton"] + parts["residual"]
    np.testing.assert_allclose(together, parts["hessian"], atol=1e-12)
    jacobian = jax.jacobian(lambda n: n.product)(network).weights
    jacobian = jnp.concatenate([j.reshape(5, -1) for j in jacobian], axis=1)
    wanted = 2 * jacobian.T @ problem.covariance @ jacobian + 0.6 * jnp.eye(55)
    np.testing.assert_allclose(parts["gauss_newton"], wanted, atol=1e-12)


def test_the_parts_of_a_nonlinear_network():
    loss, network = nonlinear_case(jr.key(0), 1, 0.7)
    found = {p: jf.spectrum(loss, network, largest=2, smallest=1, part=p) for p in PARTS}
    for part, spectrum in found.items():
        matrix = jf.hessian(loss, network, part=part).as_matrix()
        wanted = jnp.linalg.eigvalsh(matrix)[jnp.array([-1, -2, 0])]
        assert jnp.all(jnp.abs(spectrum.values - wanted) <= spectrum.bounds)
    outputs, pull = jax.vjp(loss.outputs, network)
    np.testing.assert_allclose(loss.criterion(outputs), loss.excess(network), rtol=1e-14)
    rows = jax.vmap(lambda cotangent: pull(cotangent)[0])(
        jnp.eye(outputs.size).reshape(-1, *outputs.shape)
    )
    rows = jnp.concatenate([r.reshape(outputs.size, -1) for r in jax.tree.leaves(rows)], 1)
    wanted = jnp.linalg.eigvalsh(2 / 20 * rows.T @ rows)[-1]
    np.testing.assert_allclose(found["gauss_newton"].values[0], wanted, rtol=1e-9)


class Plain(jf.AbstractLoss):
    """A loss that does not say what its outputs are."""

    floor: jax.Array

    def excess(self, network):
        return sum(jnp.sum(w**4) for w in jax.tree.leaves(network))


def test_a_loss_without_outputs_has_a_hessian_but_no_parts(network):
    loss = Plain(jnp.zeros(()))
    top = max(jnp.max(12 * w**2) for w in network.weights)
    np.testing.assert_allclose(jf.sharpness(loss, network), top, rtol=1e-9)
    for whole in (loss, loss + jf.WeightDecay(0.1)):
        with pytest.raises(ValueError, match=r"Implement `Plain\.outputs\(network\)`"):
            jf.hessian(whole, network, part="gauss_newton")
    with pytest.raises(ValueError, match="must say what its outputs are"):
        loss.criterion(jnp.zeros(3))


def metric(network):
    keys = jr.split(jr.key(8), len(network.weights))
    pairs = zip(keys, network.weights, strict=True)
    return jf.DeepLinear(tuple(jnp.exp(jr.normal(k, w.shape)) for k, w in pairs))


def preconditioned(loss, network, preconditioner):
    """Dense, as the generalized eigenvalue problem."""
    size = jnp.concatenate([p.ravel() for p in preconditioner.weights])
    matrix = jf.hessian(loss, network).as_matrix()
    return jnp.linalg.eigvalsh(matrix / jnp.sqrt(size[:, None] * size[None, :]))[::-1]


def test_preconditioned_eigenvalues_are_those_of_the_generalized_problem(problem, network):
    linalg = pytest.importorskip("scipy.linalg")
    p = metric(network)
    size = jnp.concatenate([leaf.ravel() for leaf in p.weights])
    matrix = jf.hessian(problem, network).as_matrix()
    wanted = linalg.eigh(np.array(matrix), np.diag(size), eigvals_only=True)[::-1]
    found = jf.spectrum(problem, network, largest=2, smallest=1, preconditioner=p)
    wanted = [wanted[0], wanted[1], wanted[-1]]
    np.testing.assert_allclose(found.values, wanted, rtol=1e-9)
    assert jnp.all(jnp.abs(found.values - jnp.array(wanted)) <= found.bounds)
    top = jf.sharpness(problem, network, preconditioner=p)
    np.testing.assert_allclose(top, wanted[0], rtol=1e-10)


def test_preconditioned_sharpness_has_the_derivative_of_the_dense_eigenvalue(
    problem, network
):
    ours = lambda *place: jf.sharpness(*place[:2], preconditioner=place[2])
    exact = lambda *place: preconditioned(*place)[0]
    place = (problem, network, metric(network))
    for arguments in zip(
        jax.tree.leaves(jax.grad(ours, argnums=(0, 1, 2))(*place)),
        jax.tree.leaves(jax.grad(exact, argnums=(0, 1, 2))(*place)),
        strict=True,
    ):
        np.testing.assert_allclose(*arguments, atol=1e-7)


def test_the_mean_of_a_repeated_eigenvalue_has_its_exact_derivative():
    """Fourfold at the top, where one eigenvalue alone has a kink."""
    problem = jf.Regression.from_data(
        2.0 * jnp.eye(4), jnp.diag(jnp.array([2.0, 2.0, 1.0, 0.5]))
    )
    network = jf.init.balanced(problem.target, 2)
    keys = jr.split(jr.key(0), 2)
    direction = jf.DeepLinear(tuple(jr.normal(k, (4, 4)) for k in keys))
    mean = lambda n: jnp.mean(jf.spectrum(problem, n, largest=4).values)
    _, slope = jax.jvp(mean, (network,), (direction,))

    def moved(step):
        there = jax.tree.map(lambda w, d: w + step * d, network, direction)
        return jnp.mean(dense(problem, there)[:4])

    wanted = (moved(1e-5) - moved(-1e-5)) / 2e-5
    np.testing.assert_allclose(slope, wanted, rtol=1e-8)


def test_a_warm_start_saves_products_and_is_as_right():
    """From one record to the next, where the problem has changed by a thousandth."""
    noise = jr.normal(jr.key(0), (200, 200)) / 20
    spread = jnp.diag(jnp.linspace(0.0, 1.0, 200))
    network = jf.DeepLinear((jnp.zeros((1, 200)),))
    options = {"largest": 2, "smallest": 1, "rtol": 1e-6}
    products, found = [], None
    for step in range(4):
        covariance = spread + 1e-3 * step * (noise + noise.T)
        problem = jf.Regression(jnp.ones((1, 200)), covariance, jnp.zeros(()))
        wanted = 2 * jnp.linalg.eigvalsh(covariance)[jnp.array([-1, -2, 0])]
        cold = jf.spectrum(problem, network, **options)
        found = jf.spectrum(problem, network, start=found, **options)
        assert found.converged
        assert jnp.all(jnp.abs(found.values - wanted) <= found.bounds)
        products.append((int(found.matvecs), int(cold.matvecs)))
    warm, cold = np.sum(products[1:], axis=0)
    assert warm < 0.9 * cold, products


@pytest.mark.parametrize("overtaken", [0.999, 0.5, -1.0])
def test_a_warm_start_finds_the_eigenvalue_that_overtook(overtaken):
    """From exact eigenvectors of the problem before, which are eigenvectors still."""
    crowd = jnp.linspace(0.0, 0.9, 58)
    variances = lambda a, b: jnp.concatenate([jnp.array([a, b]), crowd])
    loss = lambda a, b: jf.Regression(
        jnp.ones((1, 60)), jnp.diag(variances(a, b)), jnp.zeros(())
    )
    network = jf.DeepLinear((jnp.zeros((1, 60)),))
    before = jf.spectrum(loss(1.0, 0.95), network)
    after = jf.spectrum(loss(overtaken, 1.0), network, start=before)
    np.testing.assert_allclose(after.values, 2.0, rtol=1e-9)
    assert after.converged


def test_eigenvalues_closer_than_the_tolerance_are_admitted_to_be_one():
    """Random clusters of random width; whatever is returned is an eigenvalue."""
    keys = jr.split(jr.key(0), 4)
    base = jr.uniform(keys[0], (200, 6)).at[:, 0].set(1.0)
    split = 10.0 ** -jr.uniform(keys[1], (200, 1), minval=1, maxval=13)
    pick = jr.randint(keys[2], (200, 60), 0, 6)
    spectra = jnp.take_along_axis(base, pick, 1) + split * jr.normal(keys[3], (200, 60))
    network = jf.DeepLinear((jnp.zeros((1, 60)),))

    def measure(spectrum):
        loss = jf.Regression(jnp.ones((1, 60)), jnp.diag(spectrum), jnp.zeros(()))
        return jf.spectrum(loss, network, largest=3)

    found = eqx.filter_jit(jax.vmap(measure))(spectra)
    wanted = 2 * jnp.sort(spectra, axis=1)[:, ::-1]
    tolerance = 2 * float(jnp.finfo(float).eps) ** (2 / 3)
    nearest = jnp.min(jnp.abs(found.values[:, :, None] - wanted[:, None, :]), axis=2)
    assert jnp.all(nearest <= found.residuals + 1e-14)
    missed = jnp.max(jnp.abs(found.values - wanted[:, :3]) - found.bounds, axis=1)
    assert jnp.mean(found.converged) > 0.99
    assert jnp.all(jnp.where(found.converged, missed, 0) <= 10 * tolerance)


def test_a_second_network_does_not_compile_again(problem, monkeypatch):
    # Which program a network has is asked for each time that one is traced.
    invariant = importlib.import_module("jaxflow.observables.curvature").invariant
    traced, find = [], invariant.find
    watched = lambda *place: (traced.append(place), find(*place))[1]
    monkeypatch.setattr(invariant, "find", watched)
    for number in range(3):
        network = jf.init.gaussian((5, 4, 3, 1), scale=0.3, key=jr.key(number))
        jf.sharpness(problem, network, seed=number, rtol=10.0**-number)
    assert len(traced) == 1


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"largest": 56}, "between 1 and 55 eigenvalues"),
        ({"largest": 0}, "between 1 and 55 eigenvalues"),
        ({"smallest": -1}, "must not be negative, but is -1"),
        ({"max_matvecs": 0}, "must be positive, but is 0"),
        (
            {"preconditioner": jf.DeepLinear((jnp.ones((1, 5)),))},
            "a number for each weight",
        ),
        (
            {"preconditioner": jax.tree.map(jnp.zeros_like, NETWORK)},
            "must be positive and finite.* but is 0.0",
        ),
        (
            {"start": jf.spectrum(jf.WeightDecay(1.0), jf.DeepLinear((jnp.ones((1, 5)),)))},
            "of a network of the same shapes",
        ),
    ],
)
def test_options_are_checked(problem, network, options, fact):
    with pytest.raises(ValueError, match=fact):
        jf.spectrum(problem, network, **options)


def test_sharpness_in_shard_map():
    script = Path(__file__).with_name("sharded.py")
    two = {**os.environ, "JAX_NUM_CPU_DEVICES": "2", "JAX_ENABLE_X64": "1"}
    done = subprocess.run([sys.executable, script], env=two, capture_output=True, text=True)
    assert not done.returncode, done.stderr
