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
from jaxflow.papers import mulayoff_michaeli_2020 as theory


def problem_of(case, target="T"):
    target, covariance = jnp.array(case[target], float), jnp.array(case["Sigma"], float)
    return jf.Regression(target, covariance, jnp.zeros(()))


def white(target):
    target = jnp.asarray(target, float)
    return jf.Regression(target, jnp.eye(target.shape[1]), jnp.zeros(()))


def network_of(weights):
    return jf.DeepLinear(tuple(jnp.array(w, float) for w in weights))


def top(problem, network):
    return jf.observables.linear_gauss_newton_spectrum(problem, network)[0]


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
    gram = jf.observables.linear_gauss_newton_spectrum(problem, network) / 2
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
        (least / 2, "geom_form"),
        (theory.balanced_sharpness(problem, depth) / 2, "balanced_sharpness"),
        (theory.balanced_sharpness(problem, depth) / least, "balanced_over_min"),
        (2 / theory.critical_step_size(problem, depth) / 2, "min_sharpness"),
        (top(problem, network_of(case["explicit_flattest_W"])) / 2, "min_sharpness"),
        (least / 2, "explicit_flattest_sharpness"),
    ):
        np.testing.assert_allclose(value, case[name], rtol=1e-10)
    if case["whitened"]:
        np.testing.assert_allclose(least / 2, case["closed_form_white"], rtol=1e-10)
    # What direct search found for the reference is no flatter.
    assert -1e-12 < case["direct_minimisation_best"] / (least / 2) - 1 < 1e-9
    path = theory.dedicated_path(problem, depth)
    # The reference finds its ratio from values, to the root of rounding.
    np.testing.assert_allclose(path.gain, case["path_gain_per_layer"], rtol=1e-7)
    if case["relative_eigengap_of_pencil"] > 1e-6:  # Else any vector of a space.
        wanted = np.array(case["p_opt"])
        variances, axes = np.linalg.eigh(case["Sigma"])
        root = axes * np.sqrt(variances) @ axes.T
        np.testing.assert_allclose(root @ case["q_opt"], wanted, rtol=1e-10)
        np.testing.assert_allclose(np.linalg.norm(case["q_opt"]), 1, rtol=1e-12)
        np.testing.assert_allclose(path.variance, wanted @ wanted, rtol=1e-7)
        along = abs(path.signal @ (wanted / np.linalg.norm(wanted)))
        np.testing.assert_allclose(along, 1, rtol=1e-12)
    flattest = theory.flattest_minimizer(problem, depth, width=min(case["dims"][1:-1]))
    np.testing.assert_allclose(flattest.product, problem.target, atol=1e-14)
    np.testing.assert_allclose(top(problem, flattest), least, rtol=1e-12)
    scale = theory.flattest_ratio(problem, depth) ** 0.5
    scale *= np.linalg.norm(problem.target, 2) ** (1 - 1 / depth)
    np.testing.assert_allclose(scale, case["beta_opt"], rtol=1e-6)


@pytest.mark.parametrize("number", range(12))
def test_flattest_minima_have_the_structure_that_theory_says(flattest_reference, number):
    case = flattest_reference["min_sharpness_cases"][number]
    problem, depth = problem_of(case), len(case["dims"]) - 1
    network = theory.flattest_minimizer(problem, depth, width=min(case["dims"][1:-1]))
    signal, gain, _ = theory.dedicated_path(problem, depth)
    along = {"signal": signal}
    np.testing.assert_allclose(
        jf.observables.gains(problem, network, **along), gain, rtol=1e-10
    )
    coupling = jf.observables.path_coupling(problem, network, **along)
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
    observe = {"network": jf.weights, "imbalance": jf.imbalance}
    solver = jf.dynamics.ExponentialRosenbrock(tolerance=1e-12)
    options = {"solver": solver, "adjoint": dfx.ForwardMode(), "rtol": 1e-10}
    return jf.gradient_flow(problem, start, jnp.array(times), observe=observe, **options)


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(k, marks=[pytest.mark.exhaustive] * (k in (0, 2, 6, 8, 9)))
        for k in range(11)
    ],
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
    np.testing.assert_allclose(
        jf.observables.gains(problem, end), case["path_gains"], rtol=1e-6
    )
    # Its norms are those of the difference to the floor, of the loss and of the target.
    excess = case["excess_loss_end"]
    np.testing.assert_allclose(problem.excess(end) / 2, excess, rtol=1e-5, atol=1e-12)
    missed = np.linalg.norm(end.product - problem.target, 2)
    np.testing.assert_allclose(missed, case["product_error_end"], rtol=1e-5, atol=1e-8)
    apart = max(np.max(np.abs(w - end.weights[0])) for w in end.weights)
    np.testing.assert_allclose(apart, case["layers_equal_dev"], rtol=1e-5, atol=1e-8)
    assert case["imbalance_end"] < 1e-13
    if "degenerate" not in case["note"]:
        alignment = jf.alignment(problem, end)
        np.testing.assert_allclose(alignment, case["toptop_coupling"], rtol=1e-8)
    if case["closed_form_limit_W"] is not None:
        assert case["closed_form_dev"] < 1e-11
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
    assert run.status == jf.Status.SADDLE
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
    gains = jf.observables.gains(problem, network)
    np.testing.assert_allclose(gains, case["path_gains"], rtol=1e-10)
    coupling = np.minimum(jf.observables.path_coupling(problem, network), 1)
    residual = gains * np.sqrt(1 / coupling**2 - 1)
    np.testing.assert_allclose(residual, case["path_back_residuals"], atol=1e-7)
    alignment = jf.alignment(problem, network)
    np.testing.assert_allclose(alignment, case["toptop_coupling"], atol=1e-10)
    largest = [np.linalg.norm(a, 2) for a in network.from_input[1:]]
    np.testing.assert_allclose(largest, case["gain_norms"], rtol=1e-12)
    products = spectral_products(network)
    np.testing.assert_allclose(products, case["spectral_products"], rtol=1e-12)


def spectral_products(network):
    """The norm of what is before each layer, times that of what is behind."""
    pairs = zip(network.from_input[:-1], network.to_output[1:], strict=True)
    return [np.linalg.norm(a, 2) * np.linalg.norm(b, 2) for a, b in pairs]


def test_equal_products_of_spectral_norms_are_not_enough_to_be_flattest():
    """Read literally, Kamber & Parhi (2025) say so; only those of the flattest are."""
    layers = ([1, 1, 0, 1.5], [1, 1.5, 1.5, 0], [1, 0, 1, 0])
    network = network_of([np.diag(layer) for layer in layers])
    np.testing.assert_allclose(spectral_products(network), 1.5, rtol=1e-14)
    problem = white(network.product)
    np.testing.assert_allclose(top(problem, network), 11, rtol=1e-14)
    np.testing.assert_allclose(theory.flattest_sharpness(problem, 3), 6, rtol=1e-14)


@pytest.mark.parametrize(("values", "depth", "count"), [
    ((2.0, 2.0, 2.0), 3, 9), ((2.0, -2.0, 0.5), 4, 4), ((2.0, 1.0, 0.5), 3, 1),
])  # fmt: skip
def test_as_many_curvatures_are_the_largest_as_pairs_of_top_vectors(values, depth, count):
    """Of r equal largest singular values, their square, at balanced minima."""
    problem = white(np.diag(values))
    spectrum = jf.observables.linear_gauss_newton_spectrum(
        problem, jf.init.balanced(problem.target, depth)
    )
    least = theory.flattest_sharpness(problem, depth)
    np.testing.assert_allclose(spectrum[:count], least, rtol=1e-12)
    assert spectrum.size == count or spectrum[count] < 0.9 * least


def test_the_bound_of_gains_is_attained(flattest_reference):
    """By minima of one output whose first layer amplifies another direction."""
    for case in flattest_reference["structure_cases"][1:3]:
        network = network_of(case["W"])
        upper = theory.gain_bounds(white(network.product), network.depth).upper
        norm = np.linalg.norm(network.weights[0], 2)
        np.testing.assert_allclose(norm, upper[0], rtol=1e-12)
        # And the other way round, from one input, by the last layer.
        mirror = jf.DeepLinear(tuple(w.T for w in reversed(network.weights)))
        problem = white(mirror.product)
        least = theory.flattest_sharpness(problem, mirror.depth)
        np.testing.assert_allclose(top(problem, mirror), least, rtol=1e-12)
        upper = theory.tail_gain_bounds(problem, mirror.depth).upper
        np.testing.assert_allclose(np.linalg.norm(mirror.weights[-1], 2), upper[-1])
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
        trace = jnp.sum(jf.observables.linear_gauss_newton_spectrum(problem, balanced))
        np.testing.assert_allclose(trace / 2, case["balanced_trace"], rtol=1e-10)
    for case in flattest_reference["min_sharpness_cases"]:
        problem, dims = problem_of(case), case["dims"]
        network = theory.least_trace_minimizer(
            problem, len(dims) - 1, width=min(dims[1:-1])
        )
        np.testing.assert_allclose(network.product, problem.target, atol=1e-12)
        trace = jnp.sum(jf.observables.linear_gauss_newton_spectrum(problem, network))
        np.testing.assert_allclose(
            trace, theory.least_trace(problem, len(dims) - 1), rtol=1e-12
        )


def test_denoising_digits_agrees_with_the_reference(flattest_reference):
    from sklearn.datasets import load_digits

    case = flattest_reference["digits"]
    problem = jf.Regression.denoising(load_digits().data / 16, noise=1.25)
    variances = np.linalg.eigvalsh(np.asarray(problem.covariance))
    np.testing.assert_allclose(variances[-1] / variances[0], case["cond_Sigma"], rtol=1e-10)
    assert np.sum(variances - 1.25**2 < 1e-10) == case["n_zero_eigs"]
    top_five = variances[::-1][:5] - 1.25**2
    np.testing.assert_allclose(top_five, case["top_eigs_C"], rtol=1e-10)
    spread = np.linalg.norm(problem.target, 2)
    np.testing.assert_allclose(spread, case["top_gain_T"], rtol=1e-10)
    clear, _ = jf.losses.whiten(problem)
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
        network = jf.init.factorization(problem.target, widths, scale=scale, key=key)
        sharpness = top(problem, network)
        ratio = jnp.maximum(sharpness / least, 1)
        lower, upper = theory.path_gain_bounds(problem, depth, ratio)
        gains = jf.observables.gains(problem, network, signal=signal)
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
    np.testing.assert_allclose(np.prod(gains, 1), gain**depth, rtol=1e-9)
    assert sharpness.max() > 10 * least
    below = theory.sharpness_lower_bound(problem, depth)
    above = theory.balanced_sharpness_bound(problem, depth)
    balanced = theory.balanced_sharpness(problem, depth)
    assert below <= least * (1 + 1e-12)
    assert least <= balanced * (1 + 1e-12)
    assert balanced <= above * (1 + 1e-12)
    assert not clear or above == pytest.approx(below)


@pytest.mark.parametrize("depth", [2, 3, 4, 6])
def test_scalar_layers_attain_both_bounds_of_their_gains(depth):
    """One layer has the least or the largest gain of any minimum as sharp, others equal."""
    problem = white([[3.0]])
    least = theory.flattest_sharpness(problem, depth)
    within = jax.jit(lambda ratio: theory.path_gain_bounds(problem, depth, ratio))
    for ratio in (1.001, 1.3, 4.0):
        bounds = within(ratio)
        for bound in bounds:
            others = (3 / bound) ** (1 / (depth - 1))
            network = network_of([[[bound]], *[[[others]]] * (depth - 1)])
            np.testing.assert_allclose(top(problem, network), ratio * least, rtol=1e-10)
        assert bounds.lower < 3 ** (1 / depth) < bounds.upper
    np.testing.assert_allclose(within(1.0), 3 ** (1 / depth), rtol=1e-6)


OTHERS = {
    "two layers": (np.diag([2.0, 0.5]), (1.0, 1.0), 2),
    "three layers": (np.diag([2.0, 0.9, 0.3]), (1.0, 1.0, 1.0), 3),
    "four layers": (np.diag([2.0, 0.5]), (1.0, 1.0), 4),
    "six layers": (np.diag([2.0, -0.5]), (1.0, 1.0), 6),
    "data": (np.array([[1.0, 0.3], [0.2, 0.6]]), (2.0, 0.5), 3),
    "data, four layers": (np.array([[1.0, 0.3], [0.2, 0.6]]), (2.0, 0.5), 4),
    "data, few outputs": (np.array([[1.0, 0.3, 0], [0.2, 0.6, 0.4]]), (2.0, 1.0, 0.5), 5),
}


@pytest.mark.parametrize(("target", "variances", "depth"), [
    pytest.param(*case, id=name, marks=[pytest.mark.exhaustive] * (case[2] != 3))
    for name, case in OTHERS.items()
])  # fmt: skip
def test_flattest_minima_of_any_balance_keep_their_gains_bounded(target, variances, depth):
    """Signals beside the dedicated one are mixed at random until 10,000 are flattest."""
    problem = jf.Regression(
        jnp.asarray(target), jnp.diag(jnp.array(variances)), jnp.zeros(())
    )
    least = theory.flattest_sharpness(problem, depth)
    lower, upper = map(np.asarray, theory.gain_bounds(problem, depth))
    least_tail, largest_tail = map(np.asarray, theory.tail_gain_bounds(problem, depth))
    root = jnp.sqrt(problem.covariance)
    width = target.shape[1]
    flattest = theory.flattest_minimizer(problem, depth, width=width)
    signal = theory.dedicated_path(problem, depth).signal
    states = [a @ signal / jnp.linalg.norm(a @ signal) for a in flattest.from_input[1:-1]]

    def one(key):
        """Between layers, mix what is orthogonal to the path, and undo it in the next."""
        keys = jr.split(key, 2 * depth)
        size = jr.uniform(keys[0], minval=0.02, maxval=0.6)
        mixed = list(flattest.weights)
        for k, state in enumerate(states):
            other = jnp.eye(width) - jnp.outer(state, state)
            mix = jnp.eye(width) + 0.3 * size * jr.normal(keys[2 * k + 1], (width, width))
            mix *= jnp.exp(size * jr.normal(keys[2 * k + 2]))
            mix = jnp.outer(state, state) + other @ mix @ other
            mixed[k], mixed[k + 1] = mix @ mixed[k], mixed[k + 1] @ jnp.linalg.inv(mix)
        network = jf.DeepLinear(tuple(mixed))
        norms = [jnp.linalg.norm(a @ root, 2) for a in network.from_input[1:-1]]
        tails = [jnp.linalg.norm(b, 2) for b in network.to_output[1:-1]]
        coupling = jf.observables.path_coupling(problem, network, signal=signal)[1:]
        missed = jnp.max(jnp.abs(network.product - problem.target))
        excess = theory.near_balance(problem, network)
        every = (jnp.stack(norms), jnp.stack(tails), coupling, excess, missed)
        return top(problem, network) / least, every

    draw, kept = jax.jit(jax.vmap(one)), []
    for batch in range(10):
        ratio, every = draw(jr.split(jr.key(batch), 10_000))
        flat = np.asarray(ratio <= 1 + 1e-12)
        assert np.min(ratio) > 1 - 1e-12
        assert not flat.all()
        kept.append([np.asarray(values)[flat] for values in every])
        if sum(len(norms) for norms, *_ in kept) >= 10_000:
            break
    norms, tails, coupling, excess, missed = map(np.concatenate, zip(*kept, strict=True))
    assert len(norms) >= 10_000
    assert missed.max() < 1e-13
    assert np.all(norms >= lower * (1 - 1e-10))
    assert np.all(norms <= upper * (1 + 1e-10))
    assert np.all(tails >= least_tail * (1 - 1e-10))
    assert np.all(tails <= largest_tail * (1 + 1e-10))
    np.testing.assert_allclose(coupling, 1, rtol=1e-10)
    np.testing.assert_allclose(excess, 0, atol=1e-10)


@pytest.mark.parametrize(
    "depth", [3, *(pytest.param(k, marks=pytest.mark.exhaustive) for k in (2, 4, 6))]
)
def test_balanced_minima_are_between_their_bounds_for_any_data(depth):
    """10,000 targets, of any rank, and covariances."""

    def one(key):
        keys = jr.split(key, 3)
        covariance = jr.normal(keys[0], (2, 3, 3)) * jnp.array([[[2.0, 1.0, 0.3]]])
        covariance = covariance[0].T @ covariance[0]
        kept = jnp.arange(3) <= jr.randint(keys[1], (), 0, 3)
        left, right = jr.normal(keys[2], (2, 3, 3))
        problem = jf.Regression(
            (left * kept[None].astype(left.dtype)) @ right, covariance, jnp.zeros(())
        )
        least = theory.flattest_sharpness(problem, depth)
        return jnp.stack([
            theory.sharpness_lower_bound(problem, depth) / least,
            least / theory.balanced_sharpness(problem, depth),
            theory.balanced_sharpness(problem, depth)
            / theory.balanced_sharpness_bound(problem, depth),
        ])  # fmt: skip

    ratios = np.asarray(jax.jit(jax.vmap(one))(jr.split(jr.key(depth), 10_000)))
    assert np.all(ratios > 0)
    assert np.max(ratios) < 1 + 1e-10
    # Neither bound is idle.
    assert np.all(np.min(ratios, 0) < 0.9)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("widths", "rank", "clear"), MINIMA.values(), ids=MINIMA)
def test_flattest_minima_found_directly_keep_their_gains_bounded(widths, rank, clear):
    """From random starts, to the root of how nearly flattest they are."""
    problem, depth = random_problem(widths, rank, clear), len(widths) - 1
    draw = lambda key: jf.init.factorization(problem.target, widths, scale=0.5, key=key)
    find = lambda key: jf.papers.mulayoff_michaeli_2020.minimize_sharpness(
        problem, draw(key), jf.observables.linear_gauss_newton_spectrum
    )
    ends = jax.vmap(find)(jr.split(jr.key(0), 8))
    found = np.asarray(jax.vmap(lambda network: top(problem, network))(ends))
    assert np.all(found / theory.flattest_sharpness(problem, depth) < 1 + 1e-6)
    products = jax.vmap(lambda n: (n.from_input[1:-1], n.to_output[1:-1]))(ends)
    before, behind = jax.tree.map(np.asarray, products)
    root = np.linalg.cholesky(np.asarray(problem.covariance))
    heads = np.stack([np.linalg.norm(a @ root, 2, axis=(1, 2)) for a in before], 1)
    tails = np.stack([np.linalg.norm(b, 2, axis=(1, 2)) for b in behind], 1)
    for norms, bounds in (
        (heads, theory.gain_bounds(problem, depth)),
        (tails, theory.tail_gain_bounds(problem, depth)),
    ):
        lower, upper = map(np.asarray, bounds)
        assert np.all(norms >= lower * (1 - 3e-3))
        assert np.all(norms <= upper * (1 + 3e-3))


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
    other = jf.papers.marion_chizat_2024
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


def test_a_target_of_zero_has_a_perfectly_flat_minimizer():
    problem = white(np.zeros((2, 3)))
    network = theory.flattest_minimizer(problem, 3)
    for value in (
        theory.flattest_sharpness(problem, 3),
        theory.balanced_sharpness(problem, 3),
        theory.least_trace(problem, 3),
        top(problem, network),
        jnp.max(jnp.abs(theory.least_trace_minimizer(problem, 3).product)),
        theory.dedicated_path(problem, 3).gain,
    ):
        assert value == 0


def test_one_layer_has_one_minimizer():
    problem = random_problem((3, 3), 3, False)
    largest = 2 * np.linalg.eigvalsh(np.asarray(problem.covariance))[-1]
    np.testing.assert_allclose(theory.flattest_sharpness(problem, 1), largest, rtol=1e-12)
    np.testing.assert_allclose(theory.balanced_sharpness(problem, 1), largest, rtol=1e-12)
    np.testing.assert_array_equal(
        theory.flattest_minimizer(problem, 1).product, problem.target
    )
    trace = 2 * 3 * np.trace(problem.covariance)
    np.testing.assert_allclose(theory.least_trace(problem, 1), trace, rtol=1e-12)


def test_data_that_miss_directions_have_their_own_flattest_minimum():
    """Three inputs of which one is the sum of the others."""
    x = np.random.default_rng(0).normal(size=(20, 2)) @ np.array([[1.0, 0, 1], [0, 1, 1]])
    y = np.random.default_rng(1).normal(size=(20, 2))
    problem = jf.Regression.from_data(x, y)
    network = theory.flattest_minimizer(problem, 3)
    least = theory.flattest_sharpness(problem, 3)
    np.testing.assert_allclose(top(problem, network), least, rtol=1e-12)
    trace = theory.least_trace_minimizer(problem, 3)
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
        lambda p: theory.flattest_minimizer(p, 3, width=1),
        "rank of the target, 2, but is 1: networks with this bottleneck",
    ),
    "bottleneck of traces": (
        lambda p: theory.least_trace_minimizer(p, 3, width=1),
        "rank of the target, 2, but is 1",
    ),
    "data not white": (
        lambda p: theory.identity_sharpness(doubled(p), 2),
        "needs white data: use `white, _ = whiten",
    ),
    "not symmetric": (lambda p: theory.identity_sharpness(p, 2), "symmetric"),
    "not normal": (lambda p: theory.residual_limit(p, 2), "commutes with its transpose"),
    "negative determinant": (
        lambda p: theory.residual_limit(white(np.diag([2.0, -0.5])), 2),
        "is -0.5: no flow",
    ),
    "two negative eigenvalues": (
        lambda p: theory.residual_limit(white(-np.eye(2)), 3),
        "is -1: no flow",
    ),
}


@pytest.mark.parametrize(("call", "fact"), WRONG.values(), ids=WRONG)
def test_what_theory_does_not_cover_is_refused(call, fact):
    with pytest.raises(ValueError, match=fact):
        call(white([[1.0, 3.0], [0.0, 1.0]]))


def test_a_readout_is_refused():
    problem = jf.Regression.from_data(np.eye(2), np.eye(2), readout=np.eye(2))
    with pytest.raises(ValueError, match="must have no readout"):
        theory.flattest_sharpness(problem, 2)
