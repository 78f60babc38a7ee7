"""Results in other units: a loss times a constant, data in nanometers or light years."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import jaxflow as jf
from jaxflow._linalg.norms import norm, tree_isfinite, tree_norm

# Exponents with a margin of some thousand to the smallest and the largest number.
SCALES = {"float32": (1e-30, 1e-21, 1.0, 1e21, 1e30), "float64": (1e-280, 1.0, 1e280)}
EACH = [(dtype, scale) for dtype, scales in SCALES.items() for scale in scales]


def quadratic(w, matrix, scale):
    return scale * (0.5 * w @ matrix @ w)


def in_units(matrix, scale, dtype):
    cast = lambda x: jnp.asarray(x, dtype)
    return eqx.Partial(quadratic, matrix=cast(matrix), scale=cast(scale))


@pytest.mark.parametrize(("dtype", "scale"), EACH)
def test_norms_are_right_at_every_scale(dtype, scale):
    x = np.random.default_rng(0).normal(size=(4, 5))
    given = jnp.asarray(scale * x, dtype)
    close = lambda a, b: np.testing.assert_allclose(
        np.asarray(a, float) / scale, b, rtol=4 * np.finfo(dtype).eps
    )
    close(norm(given), np.linalg.norm(x))
    close(norm(given, axis=1), np.linalg.norm(x, axis=1))
    close(tree_norm((given[:2], given[2:])), np.linalg.norm(x))


def test_norms_of_what_is_zero_or_not_finite():
    assert norm(jnp.zeros(3)) == 0
    assert jnp.all(jax.grad(norm)(jnp.zeros(3)) == 0)
    for bad in (jnp.inf, -jnp.inf, jnp.nan):
        assert not jnp.isfinite(norm(jnp.array([1.0, bad])))
        assert not tree_isfinite((jnp.ones(2), jnp.array([bad])))
    assert jnp.isnan(tree_norm((jnp.ones(2), jnp.array([jnp.nan]))))
    x = jnp.array([3.0, 4.0])
    np.testing.assert_allclose(jax.grad(norm)(x), x / 5, rtol=1e-15)


def spectra(rng, count, size):
    """Eigenvalues of all kinds, each row with a largest modulus of one."""
    kinds = [
        rng.normal(size=size),
        -rng.exponential(size=size),
        rng.normal(size=size) ** 5,
        np.where(np.arange(size) < 4, 1.0, rng.normal(size=size) / 2),
        np.where(np.arange(size) < 3, rng.choice([-1.0, 1.0]), 0.0),
        np.ones(size),
        np.repeat(rng.normal(size=size // 2), 2),
        np.where(np.arange(size) == 0, 1.0, 1 - 1e-4 * rng.random(size)),
    ]
    picked = np.array([kinds[k] for k in rng.integers(len(kinds), size=count)])
    picked = np.array([row[rng.permutation(size)] for row in picked])
    return picked / np.max(np.abs(picked), axis=1, keepdims=True)


@pytest.mark.parametrize("dtype", SCALES)
def test_bounds_of_eigenvalues_hold_at_every_scale(dtype):
    """At 10,000 Hessians: degenerate, definite or not, from 1e-30 to 1e30."""
    count, size, rng = 5000, 10, np.random.default_rng(1)
    matrices, scales = [], 10 ** rng.uniform(-30, 30, count)
    # A new batch of kinds for every hundred: repeated draws of one would be the same.
    for _ in range(count // 100):
        values = spectra(rng, 100, size)
        axes = np.linalg.qr(rng.normal(size=(100, size, size)))[0]
        matrices.append((axes * values[:, None]) @ np.swapaxes(axes, 1, 2))
    matrices = np.concatenate(matrices)
    matrices = (matrices + np.swapaxes(matrices, 1, 2)) / 2
    losses = in_units(matrices, scales, dtype)

    @eqx.filter_vmap(in_axes=(eqx.if_array(0), None))
    def ends(loss, w):
        return jf.spectrum(loss, w, largest=2, smallest=1)

    found = ends(losses, jnp.asarray(rng.normal(size=size), dtype))
    exact = np.linalg.eigvalsh(np.asarray(losses.keywords["matrix"], float))
    scales = np.asarray(losses.keywords["scale"], float)[:, None]
    wrong = np.abs(np.asarray(found.values, float) / scales - exact[:, [-1, -2, 0]])
    broken = wrong > np.asarray(found.bounds, float) / scales
    assert np.all(found.converged)
    assert not np.any(broken), np.argwhere(broken)
    # And the bounds are worth something.
    assert np.median(np.asarray(found.bounds, float) / scales) < 1e3 * (
        np.finfo(dtype).eps ** (2 / 3)
    )


@pytest.mark.parametrize(("dtype", "scale"), EACH)
def test_the_whole_spectrum_scales_with_the_loss(dtype, scale):
    matrix = np.diag([2.0, 1.0, 1.0, -1.0, 0.5, 0.0])
    loss, w = in_units(matrix, scale, dtype), jnp.ones(6, dtype)
    for exact in (0, 256):
        found = jf.observables.spectral_density(loss, w, exact=exact)
        size, trace = float(found.frobenius) / scale, float(found.trace) / scale
        error = float(found.frobenius_error) / scale
        assert np.isfinite(error)
        assert abs(trace - 3.5) <= 1e-5 + 4 * float(found.trace_error) / scale
        assert abs(size - np.linalg.norm(matrix)) <= 1e-5 + 4 * error


def problem_in_units(problem, scale, dtype):
    """The loss times a number, as one problem of moments."""
    cast = lambda x: jnp.asarray(x, dtype)
    moments = scale * np.asarray(problem.covariance), scale * np.asarray(problem.floor)
    return jf.Regression(cast(problem.target), *map(cast, moments))


@pytest.mark.parametrize("dtype", SCALES)
def test_batches_of_sharpness_scale_with_the_loss(problem, dtype):
    draw = lambda key: jf.init.gaussian((5, 4, 1), scale=0.7, key=key)
    networks = jax.vmap(draw)(jr.split(jr.key(2), 20))
    exact = [
        np.linalg.eigvalsh(jf.hessian(problem, one).as_matrix())[-1]
        for one in (jax.tree.map(lambda w, k=k: w[k], networks) for k in range(20))
    ]
    networks = jax.tree.map(lambda w: w.astype(dtype), networks)
    for scale in SCALES[dtype]:
        loss = problem_in_units(problem, scale, dtype)
        found = jax.vmap(eqx.Partial(jf.sharpness, loss))(networks)
        rtol = 1e-4 if dtype == "float32" else 1e-9
        np.testing.assert_allclose(np.asarray(found, float) / scale, exact, rtol=rtol)


@pytest.mark.parametrize("dtype", SCALES)
def test_flows_in_other_units_take_the_same_way(problem, network, dtype):
    start = jax.tree.map(lambda w: w.astype(dtype), network)
    ends, statuses = [], set()
    for scale in SCALES[dtype]:
        loss = problem_in_units(problem, scale, dtype)
        part = jf.gradient_flow(loss, start, (0.0, 0.3 / scale))
        whole = jf.gradient_flow(loss, start, (0.0, jnp.inf))
        ends.append(jax.tree.leaves((part.network, whole.network)))
        statuses.add((int(part.status), int(whole.status)))
    for other in ends[1:]:
        for a, b in zip(ends[0], other, strict=True):
            np.testing.assert_allclose(a, b, atol=2e-4 if dtype == "float32" else 1e-7)
    assert statuses == {(jf.Status.UNCONVERGED, jf.Status.CONVERGED)}


@pytest.mark.parametrize("unit_of_weights", [1e-12, 1.0, 1e12])
def test_flows_are_as_precise_in_every_unit_of_weights(problem, unit_of_weights):
    target = unit_of_weights * problem.target
    scaled = jf.Regression(target, problem.covariance, problem.floor)
    variances, axes = np.linalg.eigh(problem.covariance)
    learned = axes * -np.expm1(-2 * 0.3 * variances) @ axes.T
    run = jf.gradient_flow(scaled, jf.DeepLinear((jnp.zeros((1, 5)),)), (0.0, 0.3))
    size = np.max(np.abs(target))
    np.testing.assert_allclose(run.network.product, target @ learned, atol=1e-8 * size)


@pytest.mark.parametrize("dtype", SCALES)
def test_descents_in_other_units_take_the_same_way(problem, network, dtype):
    start = jax.tree.map(lambda w: w.astype(dtype), network)
    runs = [
        jf.gradient_descent(
            problem_in_units(problem, scale, dtype),
            start,
            300,
            step_size=0.03 / scale,
            every=300,
        )
        for scale in SCALES[dtype]
    ]
    assert {int(run.status) for run in runs} == {jf.Status.CONVERGED}
    for run in runs[1:]:
        rtol = 1e-4 if dtype == "float32" else 1e-10
        np.testing.assert_allclose(run.network.product, runs[0].network.product, rtol=rtol)


@pytest.mark.parametrize("run", ["flow", "descent", "central"])
def test_runs_in_other_units_of_weights_take_the_same_way(problem, network, run):
    """Weights times $a$, so targets times $a^3$ and times over $a^4$, for three layers."""
    a = 2.0**-40
    scaled = jf.Regression(a**3 * problem.target, problem.covariance, a**6 * problem.floor)
    small = jax.tree.map(lambda w: a * w, network)

    def go(loss, start, unit):
        if run == "flow":
            return jf.gradient_flow(loss, start, (0.0, 0.4 / unit))
        options = {"step_size": 0.15 / unit, "every": 20}
        if run == "descent":
            return jf.gradient_descent(loss, start, 40, **options)
        return jf.central_flow(loss, start, 40, **options)

    first, other = go(problem, network, 1.0), go(scaled, small, a**4)
    rtol = 1e-6 if run == "central" else 1e-9  # The constraint amplifies rounding.
    np.testing.assert_allclose(
        other.network.product, a**3 * first.network.product, rtol=rtol
    )
    assert int(first.status) == int(other.status)
    if run == "central":
        assert first.edge.modes[-1, 0] > 0
        np.testing.assert_allclose(
            other.edge.modes / a**2, first.edge.modes, rtol=1e-4, atol=1e-9
        )


def observables(loss, network, step_size):
    """Ratios and angles, which have no units."""
    return {
        "path": jf.observables.path_coupling(loss, network),
        "alignment": jf.alignment(loss, network),
        "rank": jf.observables.stable_rank(loss, network),
        "kernel": jf.observables.kernel_target_alignment(loss, network),
        "step_cosine": jf.observables.step_cosine(loss, network, step_size=step_size),
    }


@pytest.mark.parametrize("dtype", SCALES)
def test_ratios_and_angles_have_no_units(dtype):
    """Weights times $a$, in losses of samples whose targets are times $a^3$."""
    x, y = jr.normal(jr.key(4), (20, 5)), jr.normal(jr.key(5), (20, 1))
    start = jf.init.gaussian((5, 5, 5, 1), scale=0.4, key=jr.key(1))
    cast = lambda t: jax.tree.map(lambda w: w.astype(dtype), t)
    loss = cast(jf.MeanSquaredError(x, y))
    first = observables(loss, cast(start), 0.1)
    rises = (
        jf.observables.sharpening_rate(loss, cast(start)),
        jf.observables.predicted_oscillation_variance(loss, cast(start)),
    )
    a = 2.0**-17 if dtype == "float32" else 2.0**-140
    scaled = eqx.tree_at(lambda loss: loss.y, loss, a**3 * loss.y)
    small = cast(jax.tree.map(lambda w: a * w, start))
    other = observables(scaled, small, 0.1 / a**4)
    rtol = 2e-3 if dtype == "float32" else 1e-9
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, rtol=rtol), first, other)
    oscillation = jf.observables.predicted_oscillation_variance(scaled, small) / a**2
    np.testing.assert_allclose(oscillation, rises[1], rtol=rtol)
    assert jnp.isfinite(rises[0])


def away(w):
    """A function with a least value below zero, the floor that is assumed."""
    return jnp.sum((w - 1) ** 2) - 5


def pole(w):
    return jnp.sum((w - 2) ** 2 + 1e-3 / w**2)


def root(w):
    return jnp.sum(jnp.sqrt(w))


def cone(w):
    return jnp.linalg.norm(w) + w @ w


def test_losses_below_their_floor_have_not_converged_for_that():
    far = 3 * jnp.ones(3)
    run = jf.gradient_descent(away, far, 2, step_size=0.1, every=1)
    assert run.status == jf.Status.UNCONVERGED
    run = jf.gradient_flow(away, far, (0.0, jnp.inf))
    assert run.status == jf.Status.CONVERGED
    np.testing.assert_allclose(run.network, 1, atol=1e-5)


def test_losses_without_a_value_at_zero_have_not_converged_for_that():
    run = jf.gradient_flow(pole, 4 * jnp.ones(2), (0.0, 0.2))
    assert run.status == jf.Status.UNCONVERGED
    run = jf.gradient_flow(pole, 4 * jnp.ones(2), (0.0, jnp.inf))
    assert run.status == jf.Status.CONVERGED
    assert jf.observables.gradient_norm(pole, run.network) < 1e-4


@pytest.mark.parametrize("end", [1.0, jnp.inf])
def test_a_start_that_is_not_finite_ends_at_once(problem, network, end):
    lost = jax.tree.map(lambda w: w * jnp.nan, network)
    run = jf.gradient_flow(problem, lost, (0.0, end), throw=False)
    assert run.status == jf.Status.DIVERGED
    assert run.num_steps < 1000
    run = jf.gradient_descent(problem, lost, 8, step_size=0.1)
    assert run.status == jf.Status.DIVERGED
    assert run.num_steps <= 1


@pytest.mark.parametrize(("loss", "start"), [(cone, 0.0), (root, 1.0)])
def test_flows_fail_where_the_slope_is_not_a_number(loss, start):
    run = jf.gradient_flow(loss, start * jnp.ones(3), (0.0, 5.0), throw=False)
    assert run.status == jf.Status.FAILED
    assert run.num_steps < 1000
    assert not run.ok


def test_a_central_flow_that_is_not_finite_ends_at_once(problem, network):
    lost = jax.tree.map(lambda w: w * jnp.nan, network)
    run = jf.central_flow(problem, lost, 40, step_size=0.1, every=20)
    assert run.status == jf.Status.DIVERGED
    assert run.num_steps <= 1


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_no_eigenvalue_is_found_where_weights_are_not_finite(bad):
    w = jnp.ones(4).at[1].set(bad)
    for loss in (in_units(np.eye(4), 1.0, "float64"), lambda w: jnp.sum(w**4)):
        found = jf.spectrum(loss, w)
        assert not found.converged
        assert jnp.all(jnp.isnan(found.values))
        assert jnp.isnan(jf.sharpness(loss, w))
