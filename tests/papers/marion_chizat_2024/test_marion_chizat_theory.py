"""Marion & Chizat (2024): every statement against direct numerics."""

import itertools as it

import diffrax as dfx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import jaxflow as jf
from jaxflow.papers import marion_chizat_2024 as theory

BOUNDS = {
    "lower": theory.sharpness_lower_bound,
    "upper_paper": theory.sharpness_upper_bound,
    "upper_small_init": theory.small_start_sharpness_bound,
    "S_min": theory.flattest_sharpness,
    "S_balanced_rank_one": theory.balanced_sharpness,
    "eta_max": theory.critical_step_size,
}
CASES = range(3)


def problem_of(case):
    readout = None if case["p"] is None else np.array(case["p"])
    return jf.Regression.from_data(
        np.array(case["X"]), np.array(case["y"]), readout=readout
    )


def network_of(weights):
    return jf.DeepLinear(tuple(jnp.atleast_2d(jnp.array(w)) for w in weights))


@pytest.mark.parametrize("number", CASES)
def test_bounds_agree_with_the_independent_implementation(reference, number):
    case = reference["minimizer_cases"][number]
    problem = problem_of(case)
    for name, bound in BOUNDS.items():
        np.testing.assert_allclose(bound(problem, case["L"]), case[name], rtol=1e-10)
    a, smallest, largest = theory.curvatures(problem)
    np.testing.assert_allclose(
        [a, smallest, largest, problem.floor],
        [case["a"], case["lam"], case["Lam"], case["R_min"]],
        rtol=1e-10,
        atol=1e-14,
    )


def test_sharpness_bounds_hold_at_every_depth(reference):
    data = reference["reference_datasets"]["jax0.4.27_threefry_partitionable_False"]
    linear = data["linear"]
    problem = jf.Regression.from_data(np.array(linear["X"]), np.array(linear["y"]))
    for case in reference["S_vs_depth_reference_data"]:
        for name in ("lower", "S_min", "upper_paper"):
            value = BOUNDS[name](problem, case["L"])
            np.testing.assert_allclose(value, case[name], rtol=1e-10)
        balanced = theory.balanced_sharpness(problem, case["L"])
        np.testing.assert_allclose(balanced, case["S_balanced"], rtol=1e-10)


@pytest.mark.parametrize("kind", ["linear", "underdetermined"])
def test_bounds_hold_for_published_and_underdetermined_data(reference, kind):
    for data in reference["reference_datasets"].values():
        case = data[kind]
        problem = jf.Regression.from_data(np.array(case["X"]), np.array(case["y"]))
        flattest = theory.flattest_sharpness(problem, case["L"])
        np.testing.assert_allclose(flattest, case["S_min"], rtol=1e-10)
        balanced = theory.balanced_sharpness(problem, case["L"])
        np.testing.assert_allclose(balanced, case["S_balanced"], rtol=1e-10)


@pytest.mark.parametrize("number", CASES)
def test_explicit_minimizers_have_the_predicted_sharpness(reference, number):
    case = reference["minimizer_cases"][number]
    problem, depth = problem_of(case), case["L"]
    for minimizer, predicted in (
        (theory.flattest_minimizer, case["S_min"]),
        (theory.balanced_minimizer, case["S_balanced_rank_one"]),
    ):
        network = minimizer(problem, depth)
        assert problem.excess(network) < 1e-25
        np.testing.assert_allclose(jf.sharpness(problem, network), predicted, rtol=1e-9)


@pytest.mark.parametrize("number", CASES)
def test_sharpness_of_minimizers_agrees_with_the_independent_implementation(
    reference, number
):
    case = reference["minimizer_cases"][number]
    problem = problem_of(case)
    for minimizer in case["random_minimizers"]:
        network = network_of(minimizer["Ws"])
        exact = jf.observables.linear_gauss_newton_spectrum(problem, network)[0]
        np.testing.assert_allclose(exact, minimizer["sharpness"], rtol=1e-10)
        np.testing.assert_allclose(jf.sharpness(problem, network), exact, rtol=1e-10)


# One shape for each depth, so that a thousand problems compile eight times.
SHAPES = [
    ((3, 1), 20, 1),
    ((4, 3, 1), 4, 1),
    ((3, 5, 1, 1), 20, 1),
    ((5, 4, 3, 2, 1), 3, 1),
    ((4, 4, 4, 4, 4, 1), 30, 1),
    ((2, 3, 2, 3, 2, 3, 2, 1), 9, 1),
    ((5, 4, 4, 4, 4, 4, 4, 4, 4, 4, 1), 40, 1),
    ((3, 4, 4, 4), 25, 3),
]


def random_minimizers(widths, samples, count, key):
    """Random problems, and factorizations of their solutions in random bases."""
    depth, outputs = len(widths) - 1, widths[-1]

    def fit(matrix, rows, columns):
        """The matrix, cut or filled up with zeros."""
        block = matrix[:rows, :columns]
        return jnp.zeros((rows, columns)).at[: block.shape[0], : block.shape[1]].set(block)

    def make(key):
        kx, ky, ks, kw = jr.split(key, 4)
        spread = jnp.exp(jr.normal(ks, (widths[0],)))
        x = jr.normal(kx, (samples, widths[0])) * spread[None]
        problem = jf.Regression.from_data(x, jr.normal(ky, (samples, outputs)))
        if depth == 1:
            return problem, jf.DeepLinear((problem.target,))
        left, values, right = jnp.linalg.svd(problem.target, full_matrices=False)
        roots = values ** (1 / depth)
        hidden = [fit(jnp.diag(roots), b, a) for a, b in it.pairwise(widths[1:-1])]
        first = fit(roots[:, None] * right, widths[1], widths[0])
        weights = [first, *hidden, fit(left * roots[None], outputs, widths[-2])]
        for k, width in enumerate(widths[1:-1]):
            ka, kb = jr.split(jr.fold_in(kw, k))
            turn, _ = jnp.linalg.qr(jr.normal(ka, (width, width)))
            stretch = jnp.exp(0.5 * jr.normal(kb, (width,)))
            weights[k] = turn @ (stretch[:, None] * weights[k])
            weights[k + 1] = (weights[k + 1] / stretch[None]) @ turn.T
        return problem, jf.DeepLinear(tuple(weights))

    return jax.vmap(make)(jr.split(key, count))


@pytest.mark.parametrize(("widths", "samples", "outputs"), SHAPES)
def test_the_small_matrix_has_the_sharpness_of_random_minimizers(widths, samples, outputs):
    problems, networks = random_minimizers(widths, samples, 125, jr.key(len(widths)))
    both = lambda p, n: (
        p.excess(n),
        jf.sharpness(p, n),
        jf.observables.linear_gauss_newton_spectrum(p, n)[0],
    )
    excess, measured, exact = jax.jit(jax.vmap(both))(problems, networks)
    assert jnp.max(excess) < 1e-18
    np.testing.assert_allclose(measured, exact, rtol=1e-8)


@pytest.mark.parametrize(("widths", "samples", "outputs"), SHAPES[:-1])
def test_bounds_hold_for_random_problems_and_minimizers(widths, samples, outputs):
    depth = len(widths) - 1
    problems, networks = random_minimizers(widths, samples, 143, jr.key(depth))

    def measure(problem, network):
        flattest = theory.flattest_minimizer(problem, depth, width=widths[1])
        return {
            "lower": theory.sharpness_lower_bound(problem, depth),
            "least": theory.flattest_sharpness(problem, depth),
            "balanced": theory.balanced_sharpness(problem, depth),
            "upper": theory.sharpness_upper_bound(problem, depth),
            "measured": jf.observables.linear_gauss_newton_spectrum(problem, network)[0],
            "attained": jf.observables.linear_gauss_newton_spectrum(problem, flattest)[0],
            "excess": problem.excess(flattest),
        }

    found = jax.jit(jax.vmap(measure))(problems, networks)
    chain = ("lower", "least", "balanced", "upper")
    for small, large in it.pairwise(chain):
        assert jnp.all(found[small] <= found[large] * (1 + 1e-10)), (small, large)
    assert jnp.all(found["measured"] >= found["least"] * (1 - 1e-9))
    np.testing.assert_allclose(found["attained"], found["least"], rtol=1e-9)
    assert jnp.max(found["excess"]) < 1e-20


def test_lower_bound_is_attained_for_white_data():
    x = jnp.sqrt(20.0) * jnp.linalg.qr(jr.normal(jr.key(0), (20, 4)))[0]
    problem = jf.Regression.from_data(x, jr.normal(jr.key(1), (20,)))
    for depth in (2, 5):
        lower = theory.sharpness_lower_bound(problem, depth)
        least = theory.flattest_sharpness(problem, depth)
        np.testing.assert_allclose(least, lower, rtol=1e-10)


@pytest.mark.exhaustive
def test_any_norm_of_target_and_readout():
    """The bounds scale as the network does: w* -> c w* and p -> q p."""
    x, y, p = (
        jr.normal(jr.key(0), (30, 3)),
        jr.normal(jr.key(1), (30,)),
        jnp.array([0.6, 0.8]),
    )
    for depth in (1, 2, 4):
        base = jf.Regression.from_data(x, y, readout=p)
        grown = jf.Regression.from_data(x, 3.0 * y, readout=2.0 * p)
        factor = 3.0 ** (2 - 2 / depth) * 2.0 ** (2 / depth)
        for bound in (*list(BOUNDS.values())[:5],):
            ratio = bound(grown, depth) / bound(base, depth)
            np.testing.assert_allclose(ratio, factor, rtol=1e-10)
        minimizer = theory.flattest_minimizer(grown, depth)
        assert grown.excess(minimizer) < 1e-25
        np.testing.assert_allclose(
            jf.sharpness(grown, minimizer),
            theory.flattest_sharpness(grown, depth),
            rtol=1e-9,
        )


def test_a_target_of_zero_has_a_perfectly_flat_minimizer():
    problem = jf.Regression.from_data(jr.normal(jr.key(0), (10, 3)), jnp.zeros(10))
    assert theory.flattest_sharpness(problem, 3) == 0
    network = theory.flattest_minimizer(problem, 3)
    assert jf.sharpness(problem, network) == 0


def test_flattest_sharpness_has_the_derivative_of_the_minimum():
    x, y = jr.normal(jr.key(0), (30, 3)), jr.normal(jr.key(1), (30,))
    least = lambda s: theory.flattest_sharpness(
        jf.Regression.from_data(x * jnp.exp(s)[None], y), 4
    )
    s, step = jnp.array([0.1, -0.3, 0.5]), 1e-5
    slope = jax.grad(least)(s)
    for k in range(3):
        change = jnp.zeros(3).at[k].set(step)
        numeric = (least(s + change) - least(s - change)) / (2 * step)
        np.testing.assert_allclose(slope[k], numeric, rtol=1e-6)


@pytest.fixture(scope="module")
def small_flow(problem):
    start = jf.init.gaussian((5, 5, 5, 1), scale=0.05, key=jr.key(3))
    times = jnp.linspace(0.0, 60.0, 31)
    watch = {
        "network": jf.weights,
        "gap": jf.observables.rank_one_gap,
        "alignment": jf.alignment,
    }
    return start, jf.gradient_flow(problem, start, times, observe=watch, rtol=1e-10)


def test_conserved_matrices_are_conserved(problem, small_flow):
    start, flow = small_flow
    before = theory.conserved(problem, start)
    after = theory.conserved(problem, flow.network)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)  # Ten times the solver's tolerance.


def test_rank_one_bound_holds_along_the_flow_and_is_within_ten(problem, small_flow):
    start, flow = small_flow
    bound = theory.rank_one_bound(problem, start)
    gap = jnp.max(flow.observed["gap"])
    assert gap <= bound < 10 * gap


def test_rank_one_bound_adds_the_gaps_from_each_layer_to_the_last(problem):
    """By numpy, of layers so unlike that each one's bound is another number."""
    scales = (0.5, 1.0, 2.0, 0.1)
    weights = jf.init.gaussian((5, 4, 4, 3, 1), scale=1.0, key=jr.key(4)).weights
    for order in ((0, 1, 2, 3), (3, 2, 1, 0)):
        layers = [s * np.asarray(w) for s, w in zip(np.take(scales, order), weights)]  # noqa: B905
        sizes = [np.sum(w**2) for w in layers]
        gaps = [np.linalg.norm(a @ a.T - b.T @ b, 2) for a, b in it.pairwise(layers)]
        each = [sizes[k] - sizes[-1] + sum(gaps[k:]) for k in range(4)]
        network = jf.DeepLinear(tuple(map(jnp.asarray, layers)))
        bound = theory.rank_one_bound(problem, network)
        np.testing.assert_allclose(bound, max(each), rtol=1e-12)


def test_alignment_bound_holds_along_the_flow_and_ends_informative(problem, small_flow):
    start, flow = small_flow
    bound = jax.vmap(lambda n: theory.alignment_bound(problem, start, n))(
        flow.observed["network"]
    )
    assert jnp.all(flow.observed["alignment"] ** 2 >= bound - 1e-9)
    assert jnp.all(bound[-1] > 0.5)


def test_small_starts_end_near_the_balanced_sharpness(problem, small_flow):
    _, flow = small_flow
    assert flow.status == jf.Status.CONVERGED
    ratio = jf.sharpness(problem, flow.network) / theory.balanced_sharpness(problem, 3)
    assert 0 < ratio - 1 < 5e-3  # The excess falls as the scale squared; .05 leaves 1e-3.


def test_balanced_flow_of_the_end_to_end_vector_is_exact(problem):
    start = jf.init.balanced_rank_one((5, 4, 4, 1), scale=0.5, key=jr.key(2))
    times = jnp.linspace(0.0, 3.0, 5)
    flow = jf.gradient_flow(
        problem, start, times, observe={"w": lambda loss, n: n.product[0]}, rtol=1e-11
    )
    reduced = dfx.diffeqsolve(
        dfx.ODETerm(lambda t, w, args: theory.balanced_velocity(problem, 3, w)),
        dfx.Dopri8(),
        0.0,
        3.0,
        None,
        start.product[0],
        saveat=dfx.SaveAt(ts=times),
        stepsize_controller=dfx.PIDController(rtol=1e-12, atol=1e-14),
    )
    np.testing.assert_allclose(flow.observed["w"], reduced.ys, atol=1e-8)


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_escape_takes_the_predicted_time(problem, depth):
    """From an aligned start, up to the time that the leading order leaves out."""
    pull = problem.covariance @ problem.target[0]
    size = 1e-6 if depth == 2 else 1e-7
    start = size * pull / jnp.linalg.norm(pull)
    half = jnp.linalg.norm(problem.target) / 2
    solution = dfx.diffeqsolve(
        dfx.ODETerm(lambda t, w, args: theory.balanced_velocity(problem, depth, w)),
        dfx.Tsit5(),
        0.0,
        1e9,
        None,
        start,
        stepsize_controller=dfx.PIDController(rtol=1e-8, atol=1e-12),
        event=dfx.Event(lambda t, w, args, **_: jnp.linalg.norm(w) > half),
        max_steps=100_000,
    )
    predicted = theory.escape_time(problem, depth, size)
    np.testing.assert_allclose(solution.ts[0], predicted, rtol=0.1)


def test_several_outputs_are_refused(problem):
    several = jf.Regression.from_data(jnp.eye(3), jnp.eye(3))
    with pytest.raises(ValueError, match=r"must have one output.*but has 3"):
        theory.flattest_sharpness(several, 2)


@pytest.mark.parametrize("quantity", [theory.flattest_sharpness, theory.balanced_sharpness])
def test_depth_must_be_positive(problem, quantity):
    with pytest.raises(ValueError, match="must be positive, but is 0"):
        quantity(problem, 0)


def test_escape_needs_a_saddle(problem):
    with pytest.raises(ValueError, match="at least 2, but is 1"):
        theory.escape_time(problem, 1, 0.1)
