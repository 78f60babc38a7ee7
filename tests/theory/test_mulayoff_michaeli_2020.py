"""Mulayoff & Michaeli (2020): every statement against direct numerics.

The reference has the loss with a factor one half, so its curvatures are half of ours, and
its time runs at half our speed.
"""

import diffrax as dfx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.optimize

import jaxflow as jf
from jaxflow.theory import mulayoff_michaeli_2020 as theory


def problem_of(case, target="T"):
    target, covariance = jnp.array(case[target], float), jnp.array(case["Sigma"], float)
    return jf.Regression(target, covariance, jnp.zeros(()))


def white(target):
    target = jnp.asarray(target, float)
    return jf.Regression(target, jnp.eye(target.shape[1]), jnp.zeros(()))


def network_of(weights):
    return jf.DeepLinear(tuple(jnp.array(w, float) for w in weights))


def top(problem, network):
    return jf.gauss_newton_spectrum(problem, network)[0]


@pytest.mark.parametrize("number", range(4))
def test_hessians_have_the_spectra_of_the_independent_implementation(
    flattest_reference, number
):
    case = flattest_reference["hessian_cases"][number]
    network = network_of(case["W"])
    for where in ("at_minimum", "off_minimum"):
        problem = problem_of(case, f"T_{where}")
        found = np.linalg.eigvalsh(jf.hessian(problem, network).as_matrix()) / 2
        wanted = np.sort(case[f"eig_hessian_{where}"])
        np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-12)
    problem = problem_of(case, "T_at_minimum")
    gram = jf.gauss_newton_spectrum(problem, network) / 2
    wanted = np.sort(case["eig_gram_dxdy"])[::-1]
    np.testing.assert_allclose(gram, wanted, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(jnp.sum(gram), case["trace"], rtol=1e-10)
    bound = theory.sharpness_upper_bound(problem, network) / 2
    np.testing.assert_allclose(bound, case["spectral_upper_bound"], rtol=1e-10)


@pytest.mark.parametrize("number", range(12))
def test_flattest_minima_agree_with_the_independent_implementation(
    flattest_reference, number
):
    case = flattest_reference["min_sharpness_cases"][number]
    problem, depth = problem_of(case), len(case["dims"]) - 1
    least = theory.flattest_sharpness(problem, depth)
    for value, name in (
        (least / 2, "min_sharpness"),
        (theory.balanced_sharpness(problem, depth) / 2, "balanced_sharpness"),
        (2 / theory.critical_step_size(problem, depth) / 2, "min_sharpness"),
    ):
        np.testing.assert_allclose(value, case[name], rtol=1e-10)
    path = theory.dedicated_path(problem, depth)
    # The reference finds its ratio from values, to the root of rounding.
    np.testing.assert_allclose(path.gain, case["path_gain_per_layer"], rtol=1e-7)
    if case["relative_eigengap_of_pencil"] > 1e-6:  # Else any vector of a space.
        wanted = np.array(case["p_opt"])
        np.testing.assert_allclose(path.variance, wanted @ wanted, rtol=1e-7)
        along = abs(path.signal @ (wanted / np.linalg.norm(wanted)))
        np.testing.assert_allclose(along, 1, rtol=1e-12)
    flattest = theory.flattest_minimiser(problem, depth, width=min(case["dims"][1:-1]))
    np.testing.assert_allclose(flattest.product, problem.target, atol=1e-14)
    np.testing.assert_allclose(top(problem, flattest), least, rtol=1e-12)
    scale = theory.flattest_ratio(problem, depth) ** 0.5
    scale *= np.linalg.norm(problem.target, 2) ** (1 - 1 / depth)
    np.testing.assert_allclose(scale, case["beta_opt"], rtol=1e-6)


@pytest.mark.parametrize("number", range(12))
def test_flattest_minima_have_the_structure_that_theory_says(flattest_reference, number):
    case = flattest_reference["min_sharpness_cases"][number]
    problem, depth = problem_of(case), len(case["dims"]) - 1
    network = theory.flattest_minimiser(problem, depth, width=min(case["dims"][1:-1]))
    signal, gain, _ = theory.dedicated_path(problem, depth)
    along = {"signal": signal}
    np.testing.assert_allclose(jf.gains(problem, network, **along), gain, rtol=1e-10)
    coupling = jf.path_coupling(problem, network, **along)
    np.testing.assert_allclose(coupling[1:], 1, rtol=1e-10)
    assert coupling[0] == pytest.approx(1, rel=1e-10) or not case["whitened"]
    np.testing.assert_allclose(theory.near_balance(problem, network), 0, atol=1e-10)
    lower, upper = theory.gain_bounds(problem, depth)
    partial = network.from_input[1:-1]
    root = np.linalg.cholesky(np.asarray(problem.covariance))
    norms = np.array([np.linalg.norm(a @ root, 2) for a in partial])
    assert np.all(norms >= lower * (1 - 1e-10))
    assert np.all(norms <= upper * (1 + 1e-10))


def test_balanced_minima_have_the_balanced_sharpness(flattest_reference):
    for case in flattest_reference["min_sharpness_cases"]:
        problem, depth = problem_of(case), len(case["dims"]) - 1
        balanced = jf.init.balanced(problem.target, depth)
        found = theory.balanced_sharpness(problem, depth)
        np.testing.assert_allclose(top(problem, balanced), found, rtol=1e-12)


def flow(problem, depth, times):
    """The linear residual network from zero residuals."""
    start = jf.init.identity((problem.target.shape[0],) * (depth + 1))
    observe = {"network": jf.snapshot, "imbalance": jf.imbalance}
    solver = jf.ExponentialRosenbrock(tolerance=1e-12)
    options = {"solver": solver, "adjoint": dfx.ForwardMode(), "rtol": 1e-10}
    return jf.gradient_flow(problem, start, jnp.array(times), observe=observe, **options)


@pytest.mark.parametrize(
    "number",
    [pytest.param(k, marks=[pytest.mark.exhaustive] * (k % 2 == 0)) for k in range(11)],
)
def test_residual_flows_agree_with_the_independent_implementation(
    flattest_reference, number
):
    case = flattest_reference["flow_cases"][number]
    problem, depth = problem_of(case), case["m"]
    run = flow(problem, depth, [0.0, 0.5, case["t_end"] / 2])
    early, end = (jax.tree.map(lambda w: w[k], run.observed["network"]) for k in (1, 2))  # noqa: B023
    for found, wanted in zip(early.weights, case["W_t1"], strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(early.product, case["product_t1"], rtol=1e-8, atol=1e-8)
    # To the tolerance of the solver.
    np.testing.assert_allclose(run.observed["imbalance"], 0, atol=1e-9)
    # Algebraic approaches are compared at the end of the reference, not in the limit.
    for found, wanted in zip(end.weights, case["W_end"], strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=1e-7)
    hessian = jf.hessian(problem, end).as_matrix() / 2
    values = np.linalg.eigvalsh(hessian)
    np.testing.assert_allclose(values[-1], case["hessian_eigmax_end"], rtol=1e-7)
    np.testing.assert_allclose(values[0], case["hessian_eigmin_end"], atol=1e-7)
    least = theory.flattest_sharpness(problem, depth) / 2
    np.testing.assert_allclose(least, case["min_sharpness"], rtol=1e-10)
    np.testing.assert_allclose(values[-1] / least, case["ratio"], rtol=1e-7)
    np.testing.assert_allclose(jf.gains(problem, end), case["path_gains"], rtol=1e-6)
    if case["closed_form_limit_W"] is not None:
        limit = theory.residual_limit(problem, depth).weights[0]
        np.testing.assert_allclose(limit, case["closed_form_limit_W"], atol=1e-13)
        np.testing.assert_allclose(end.weights[0], limit, atol=1e-8)
    if case["product_error_end"] < 1e-6:
        np.testing.assert_allclose(
            values[-1], theory.balanced_sharpness(problem, depth) / 2, rtol=1e-7
        )
        assert run.status == jf.Status.CONVERGED


@pytest.mark.parametrize("depth", [2, 3])
def test_a_saddle_as_flat_as_a_minimum_is_called_a_saddle(depth):
    """The flow of a target with a negative determinant ends where an eigenvalue is zero."""
    problem = white(jnp.diag(jnp.array([2.0, -0.5])))
    run = flow(problem, depth, [0.0, 0.5, 1e4])
    ratio = jf.sharpness(problem, run.network) / theory.flattest_sharpness(problem, depth)
    np.testing.assert_allclose(ratio, 1, rtol=1e-4)
    np.testing.assert_allclose(problem.excess(run.network), 0.25, rtol=1e-3)
    assert run.status == jf.Status.PLATEAU
    with pytest.raises(ValueError, match="ends at a saddle"):
        theory.residual_limit(problem, depth)


def test_eigenvalues_of_two_white_layers_follow_logistic_curves(flattest_reference):
    case = flattest_reference["logistic_m2"]["example"]
    problem = white(jnp.diag(jnp.array([case["lam"], 1.0])))
    times = [0.0, *(t / 2 for t in case["t"])]
    networks = flow(problem, 2, times).observed["network"]
    products = [b @ a for a, b in zip(*networks.weights, strict=True)]
    found = [product[0, 0] for product in products[1:]]
    np.testing.assert_allclose(found, case["s"], rtol=1e-8)


@pytest.mark.parametrize("number", range(4))
def test_unbalanced_flattest_minima_have_the_structure_of_the_reference(
    flattest_reference, number
):
    case = flattest_reference["structure_cases"][number]
    network = network_of(case["W"])
    problem = white(network.product)
    np.testing.assert_allclose(top(problem, network) / 2, case["sharpness"], rtol=1e-10)
    least = theory.flattest_sharpness(problem, network.depth) / 2
    np.testing.assert_allclose(least, case["min_sharpness"], rtol=1e-10)
    np.testing.assert_allclose(theory.near_balance(problem, network), 0, atol=1e-12)
    gains = jf.gains(problem, network)
    np.testing.assert_allclose(gains, case["path_gains"], rtol=1e-10)
    coupling = np.minimum(jf.path_coupling(problem, network), 1)
    residual = gains * np.sqrt(1 / coupling**2 - 1)
    np.testing.assert_allclose(residual, case["path_back_residuals"], atol=1e-7)
    alignment = jf.alignment(problem, network)
    np.testing.assert_allclose(alignment, case["toptop_coupling"], atol=1e-10)


def test_the_bound_of_gains_is_attained(flattest_reference):
    """By minima of one output whose first layer amplifies another direction."""
    for case in flattest_reference["structure_cases"][1:3]:
        network = network_of(case["W"])
        upper = theory.gain_bounds(white(network.product), network.depth).upper
        norm = np.linalg.norm(network.weights[0], 2)
        np.testing.assert_allclose(norm, upper[0], rtol=1e-12)
        steeper = network.weights[0].at[1, 1].multiply(1.01)
        network = jf.DeepLinear((steeper, *network.weights[1:]))
        problem = white(network.product)
        excess = top(problem, network) / theory.flattest_sharpness(problem, network.depth)
        assert excess > 1.01


def test_scalar_chains_have_the_sharpness_of_the_reference(flattest_reference):
    for case in flattest_reference["scalar_cases"]:
        network = network_of([[[w]] for w in case["w"]])
        problem = white(network.product)
        sharpness = jf.sharpness(problem, network) / 2
        np.testing.assert_allclose(sharpness, case["sharpness"], rtol=1e-10)
        least = theory.flattest_sharpness(problem, network.depth) / 2
        np.testing.assert_allclose(least, case["min_sharpness"], rtol=1e-10)


def test_least_traces_agree_with_the_reference_and_are_attained(flattest_reference):
    for case in flattest_reference["min_trace_cases_white"]:
        problem, depth = white(case["T"]), case["m"]
        least = theory.least_trace(problem, depth)
        np.testing.assert_allclose(least / 2, case["min_trace"], rtol=1e-10)
        balanced = jf.init.balanced(problem.target, depth)
        trace = jnp.sum(jf.gauss_newton_spectrum(problem, balanced))
        np.testing.assert_allclose(trace / 2, case["balanced_trace"], rtol=1e-10)
    for case in flattest_reference["min_sharpness_cases"]:
        problem, dims = problem_of(case), case["dims"]
        network = theory.least_trace_minimiser(
            problem, len(dims) - 1, width=min(dims[1:-1])
        )
        np.testing.assert_allclose(network.product, problem.target, atol=1e-12)
        trace = jnp.sum(jf.gauss_newton_spectrum(problem, network))
        np.testing.assert_allclose(
            trace, theory.least_trace(problem, len(dims) - 1), rtol=1e-12
        )


def test_denoising_digits_agrees_with_the_reference(flattest_reference):
    from sklearn.datasets import load_digits

    case = flattest_reference["digits"]
    problem = jf.denoising(load_digits().data / 16, noise=1.25)
    variances = np.linalg.eigvalsh(np.asarray(problem.covariance))
    np.testing.assert_allclose(variances[-1] / variances[0], case["cond_Sigma"], rtol=1e-10)
    top_five = variances[::-1][:5] - 1.25**2
    np.testing.assert_allclose(top_five, case["top_eigs_C"], rtol=1e-10)
    spread = np.linalg.norm(problem.target, 2)
    np.testing.assert_allclose(spread, case["top_gain_T"], rtol=1e-10)
    clear, _ = jf.whiten(problem)
    spread = np.linalg.norm(clear.target, 2)
    np.testing.assert_allclose(spread, case["top_gain_Tw"], rtol=1e-10)
    for kind, which in (("whitened", clear), ("raw", problem)):
        for depth, wanted in case[f"min_sharpness_{kind}_c1"].items():
            found = theory.flattest_sharpness(which, int(depth))
            np.testing.assert_allclose(found, wanted, rtol=1e-10)


MINIMA = {
    "white": ((3, 3, 3, 3), 3, True),
    "data": ((3, 3, 3, 3), 3, False),
    "rank one": ((3, 3, 3, 3), 1, False),
    "one output": ((3, 4, 3, 1), 1, False),
}


def random_problem(widths, rank, clear, seed=0):
    draw = np.random.default_rng(seed).normal
    target = draw(size=(widths[-1], rank)) @ draw(size=(rank, widths[0]))
    x = draw(size=(20, widths[0])) * np.array([2.0, 1.0, 0.3])
    covariance = np.eye(widths[0]) if clear else x.T @ x / 20
    return jf.Regression(jnp.asarray(target), jnp.asarray(covariance), jnp.zeros(()))


@pytest.mark.parametrize(("widths", "rank", "clear"), MINIMA.values(), ids=MINIMA)
def test_bounds_hold_at_random_minima(widths, rank, clear):
    """2,500 minima of each kind, from balanced ones to ones a hundred times as sharp."""
    problem, depth = random_problem(widths, rank, clear), len(widths) - 1
    least = theory.flattest_sharpness(problem, depth)
    signal, gain, _ = theory.dedicated_path(problem, depth)

    def one(key, scale):
        network = jf.init.factorisation(problem.target, widths, scale=scale, key=key)
        sharpness = top(problem, network)
        ratio = jnp.maximum(sharpness / least, 1)
        lower, upper = theory.path_gain_bounds(problem, depth, ratio)
        gains = jf.gains(problem, network, signal=signal)
        missed = jnp.max(jnp.abs(network.product - problem.target))
        bound = theory.sharpness_upper_bound(problem, network)
        return sharpness, bound, lower, upper, gains, missed

    scales = jnp.geomspace(1e-3, 1.0, 2500)
    found = jax.jit(jax.vmap(one))(jr.split(jr.key(1), 2500), scales)
    sharpness, bound, lower, upper, gains, missed = map(np.asarray, found)
    assert missed.max() < 1e-11
    assert np.min(sharpness / least) > 1 - 1e-12
    assert np.max(sharpness / bound) < 1 + 1e-12
    slack = 1 + 1e-7  # Where the ratio is one to rounding, its root is what is known.
    assert np.all(lower / slack <= gains.T)
    assert np.all(upper * slack >= gains.T)
    assert sharpness.max() > 10 * least
    below = theory.sharpness_lower_bound(problem, depth)
    above = theory.balanced_sharpness_bound(problem, depth)
    balanced = theory.balanced_sharpness(problem, depth)
    assert below <= least * (1 + 1e-12)
    assert least <= balanced * (1 + 1e-12)
    assert balanced <= above * (1 + 1e-12)
    assert not clear or above == pytest.approx(below)
    assert gain > 0


def test_gains_of_two_layers_reach_both_ends_of_their_bounds():
    """For two white layers, of unequal norms, the bounds on the first gain are exact."""
    problem = white([[2.0, 0.0], [0.0, 0.5]])
    sharp = jf.DeepLinear((1.3 * 2**0.5 * jnp.eye(2), problem.target / (1.3 * 2**0.5)))
    ratio = top(problem, sharp) / theory.flattest_sharpness(problem, 2)
    bounds = theory.path_gain_bounds(problem, 2, ratio)
    found = jf.gains(problem, sharp)
    gain = theory.dedicated_path(problem, 2).gain
    # Gains are 1.3 and 1 / 1.3 times the balanced one.
    np.testing.assert_allclose(found / gain, [1.3, 1 / 1.3], rtol=1e-12)
    squares = ratio + np.array([-1, 1]) * np.sqrt(ratio**2 - 1)
    np.testing.assert_allclose(squares, [1 / 1.3**2, 1.3**2], rtol=1e-10)
    assert bounds.lower <= found.min() * (1 + 1e-10)
    assert bounds.upper >= found.max() * (1 - 1e-10)
    np.testing.assert_allclose(theory.path_gain_bounds(problem, 2, 1.0), gain, rtol=1e-6)


def test_flattest_minima_of_any_balance_keep_their_gains_bounded():
    """The second direction is factorised ten thousand times; some of these are flattest."""
    problem, depth = white([[2.0, 0.0], [0.0, 0.5]]), 4
    least = theory.flattest_sharpness(problem, depth)
    lower, upper = theory.gain_bounds(problem, depth)

    def one(key):
        shares = jr.normal(key, (depth,)) * 0.8
        others = 0.5 ** (1 / depth) * jnp.exp(shares - jnp.mean(shares))
        turns = [jr.orthogonal(k, 2) for k in jr.split(key, depth - 1)]
        layers = [jnp.diag(jnp.stack([2 ** (1 / depth), g])) for g in others]
        after, before = [*turns, jnp.eye(2)], [jnp.eye(2), *turns]
        triples = zip(after, layers, before, strict=True)
        network = jf.DeepLinear(tuple(a @ w @ b.T for a, w, b in triples))
        norms = jnp.stack([jnp.linalg.norm(a, 2) for a in network.from_input[1:-1]])
        return top(problem, network), norms, theory.near_balance(problem, network)

    sharpness, norms, excess = jax.jit(jax.vmap(one))(jr.split(jr.key(0), 10_000))
    flattest = np.asarray(sharpness <= least * (1 + 1e-12))
    assert 1000 < flattest.sum() < 9000
    assert np.all(norms[flattest] >= lower[None] * (1 - 1e-10))
    assert np.all(norms[flattest] <= upper[None] * (1 + 1e-10))
    np.testing.assert_allclose(excess[flattest], 0, atol=1e-10)


def test_where_signals_are_as_sharp_the_path_is_their_mixture():
    """The two forms of the least sharpness, by brute force over directions."""
    covariance = np.diag([1.0, 0.5])
    problem = jf.Regression(
        jnp.diag(jnp.array([0.2**0.5, 2.0])), jnp.asarray(covariance), jnp.zeros(())
    )
    angles = np.linspace(0, np.pi, 100_001)
    q = np.stack([np.cos(angles), np.sin(angles)])
    p = np.sqrt(covariance) @ q
    for depth in (2, 3, 5):
        sizes, images = np.sum(p**2, 0), np.sum((problem.target @ p) ** 2, 0)
        values = 2 * depth * sizes ** (1 / depth) * images ** (1 - 1 / depth)
        least = theory.flattest_sharpness(problem, depth)
        np.testing.assert_allclose(least, values.max(), rtol=1e-8)
        path = theory.dedicated_path(problem, depth)
        best = p[:, np.argmax(values)]
        np.testing.assert_allclose(path.variance, best @ best, rtol=1e-3)
        gain = (images / sizes)[np.argmax(values)] ** (1 / (2 * depth))
        np.testing.assert_allclose(path.gain, gain, rtol=1e-3)


@pytest.mark.parametrize("clear", [True, False])
@pytest.mark.parametrize("quantity", [theory.flattest_sharpness, theory.balanced_sharpness])
def test_least_sharpness_has_the_derivative_of_the_minimum(quantity, clear):
    problem, depth = random_problem((3, 3, 3, 3), 3, clear), 3
    draw = np.random.default_rng(1).normal
    turn = draw(size=(3, 3))
    direction = jf.Regression(
        jnp.asarray(draw(size=(3, 3))), jnp.asarray(turn @ turn.T), jnp.zeros(())
    )
    move = lambda step: jax.tree.map(lambda x, d: x + step * d, problem, direction)
    value = lambda step: quantity(move(step), depth)
    wanted = (value(1e-5) - value(-1e-5)) / 2e-5
    slope = jax.grad(value)(0.0)
    np.testing.assert_allclose(slope, wanted, rtol=1e-7)


def test_least_sharpness_has_a_slope_where_signals_are_as_sharp():
    problem = white(2 * np.eye(3))
    slopes = jax.grad(lambda problem: theory.flattest_sharpness(problem, 3))(problem)
    assert all(jnp.all(jnp.isfinite(s)) for s in jax.tree.leaves(slopes))
    # An element of the subgradient of a norm to a power: of trace that of its own slope.
    wanted = 2 * 3 * (2 - 2 / 3) * 2 ** (1 - 2 / 3)
    np.testing.assert_allclose(jnp.trace(slopes.target), wanted, rtol=1e-10)


def test_one_output_is_the_case_of_marion_and_chizat():
    problem = random_problem((3, 3, 3, 1), 1, False)
    other = jf.theory.marion_chizat_2024
    for mine, theirs in (
        (theory.flattest_sharpness, other.flattest_sharpness),
        (theory.balanced_sharpness, other.balanced_sharpness),
        (theory.sharpness_lower_bound, other.sharpness_lower_bound),
    ):
        np.testing.assert_allclose(mine(problem, 3), theirs(problem, 3), rtol=1e-12)


@pytest.mark.parametrize("eigenvalues", [(0.4, 0.9), (2.0, -0.5), (1.5, 100.0), (3.0, 2.0)])
@pytest.mark.parametrize("depth", [2, 3])
def test_zero_residuals_are_as_sharp_as_their_hessian_says(eigenvalues, depth):
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(2, 2)))[0]
    problem = white(turn @ np.diag(eigenvalues) @ turn.T)
    start = jf.init.identity((2,) * (depth + 1))
    wanted = np.linalg.eigvalsh(jf.hessian(problem, start).as_matrix())[-1]
    found = theory.identity_sharpness(problem, depth)
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    if max(eigenvalues) < 2:
        simple = 2 * (depth + (depth - 1) * (1 - min(eigenvalues)))
        np.testing.assert_allclose(found, simple, rtol=1e-12)


def test_a_target_of_zero_has_a_perfectly_flat_minimiser():
    problem = white(np.zeros((2, 3)))
    network = theory.flattest_minimiser(problem, 3)
    for value in (
        theory.flattest_sharpness(problem, 3),
        theory.balanced_sharpness(problem, 3),
        theory.least_trace(problem, 3),
        top(problem, network),
        jnp.max(jnp.abs(theory.least_trace_minimiser(problem, 3).product)),
        theory.dedicated_path(problem, 3).gain,
    ):
        assert value == 0


def test_one_layer_has_one_minimiser():
    problem = random_problem((3, 3), 3, False)
    largest = 2 * np.linalg.eigvalsh(np.asarray(problem.covariance))[-1]
    np.testing.assert_allclose(theory.flattest_sharpness(problem, 1), largest, rtol=1e-12)
    np.testing.assert_allclose(theory.balanced_sharpness(problem, 1), largest, rtol=1e-12)
    np.testing.assert_array_equal(
        theory.flattest_minimiser(problem, 1).product, problem.target
    )
    trace = 2 * 3 * np.trace(problem.covariance)
    np.testing.assert_allclose(theory.least_trace(problem, 1), trace, rtol=1e-12)


def test_data_that_miss_directions_have_their_own_flattest_minimum():
    """Three inputs of which one is the sum of the others."""
    x = np.random.default_rng(0).normal(size=(20, 2)) @ np.array([[1.0, 0, 1], [0, 1, 1]])
    y = np.random.default_rng(1).normal(size=(20, 2))
    problem = jf.regression(x, y)
    network = theory.flattest_minimiser(problem, 3)
    least = theory.flattest_sharpness(problem, 3)
    np.testing.assert_allclose(top(problem, network), least, rtol=1e-12)
    trace = theory.least_trace_minimiser(problem, 3)
    np.testing.assert_allclose(trace.product, problem.target, atol=1e-12)
    best = scipy.optimize.minimize(
        lambda q: -_geometric(problem, 3, q), [1.0, 0.3, -0.2], method="Nelder-Mead",
        options={"xatol": 1e-10, "fatol": 1e-12},
    )  # fmt: skip
    np.testing.assert_allclose(least, -best.fun, rtol=1e-8)


def _geometric(problem, depth, q):
    variances, axes = np.linalg.eigh(np.asarray(problem.covariance))
    p = axes @ (np.sqrt(np.maximum(variances, 0)) * q) / np.linalg.norm(q)
    image = np.asarray(problem.target) @ p
    return 2 * depth * (p @ p) ** (1 / depth) * (image @ image) ** (1 - 1 / depth)


def doubled(problem):
    return jf.Regression(problem.target, 2 * problem.covariance, problem.floor)


WRONG = {
    "depth 0": (lambda p: theory.flattest_sharpness(p, 0), "must be positive"),
    "one layer has no path": (lambda p: theory.path_gain_bounds(p, 1, 1.5), "at least 2"),
    "flatter than flattest": (lambda p: theory.path_gain_bounds(p, 2, 0.9), "at least 1"),
    "bottleneck": (
        lambda p: theory.flattest_minimiser(p, 3, width=1),
        "rank of the target, 2, but is 1: networks with this bottleneck",
    ),
    "bottleneck of traces": (
        lambda p: theory.least_trace_minimiser(p, 3, width=1),
        "rank of the target, 2, but is 1",
    ),
    "data not white": (
        lambda p: theory.identity_sharpness(doubled(p), 2),
        "needs white data: use `white, _ = whiten",
    ),
    "not symmetric": (lambda p: theory.identity_sharpness(p, 2), "symmetric"),
    "not normal": (lambda p: theory.residual_limit(p, 2), "commutes with its transpose"),
}


@pytest.mark.parametrize(("call", "fact"), WRONG.values(), ids=WRONG)
def test_what_theory_does_not_cover_is_refused(call, fact):
    with pytest.raises(ValueError, match=fact):
        call(white([[1.0, 3.0], [0.0, 1.0]]))


def test_a_readout_is_refused():
    problem = jf.regression(np.eye(2), np.eye(2), readout=np.eye(2))
    with pytest.raises(ValueError, match="has a readout"):
        theory.flattest_sharpness(problem, 2)
