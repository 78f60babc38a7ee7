"""Exact solutions: against an independent integration, their equations, and our flow."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import jaxflow as jf
from jaxflow.papers import exact_solutions as exact

# Errors add up over some hundred steps, of which each is allowed 1e-10 (relative), and grow
# while the flow leaves a saddle; measured are 2e-10 and less.
RTOL = 1e-10
AGREE = 100 * RTOL


def read(case):
    """Inputs as arrays, the flow's times in the library's units, and values."""
    inputs = {
        name: [jnp.array(w) for w in value] if name == "Ws" else jnp.array(value, float)
        for name, value in case["inputs"].items()
    }
    times = jnp.array(case["t"], float) * inputs["sigma"]
    return inputs, times, jnp.array(case["values"], float)


def white(target):
    return jf.Regression(target, jnp.eye(target.shape[1]), jnp.zeros(()))


def product(loss, network):
    return network.product


def flow(problem, network, times):
    run = jf.gradient_flow(
        problem, network, times, observe={"product": product}, rtol=RTOL, atol=1e-13
    )
    return run.observed["product"]


def integrate(velocity, start, times):
    return dfx.diffeqsolve(
        dfx.ODETerm(lambda t, y, args: velocity(y)),
        dfx.Dopri8(),
        0.0,
        times[-1],
        None,
        start,
        saveat=dfx.SaveAt(ts=times),
        stepsize_controller=dfx.PIDController(rtol=1e-11, atol=1e-13),
        max_steps=100_000,
    ).ys


def orthogonal(key, size):
    return jnp.linalg.qr(jr.normal(key, (size, size)))[0]


def aligned(key, widths, first, second):
    """Two layers with these singular values, and the modes that they act on."""
    left, middle, right = map(orthogonal, jr.split(key, 3), widths[::-1])
    first = (
        jnp.zeros(widths[1::-1])
        .at[jnp.arange(len(first)), jnp.arange(len(first))]
        .set(first)
    )
    second = (
        jnp.zeros(widths[:0:-1])
        .at[jnp.arange(len(second)), jnp.arange(len(second))]
        .set(second)
    )
    weights = (middle @ first @ right.T, left @ second @ middle.T)
    return jf.DeepLinear(weights), left, right


def balanced(key, widths, excess, scale=1.0):
    """A start with $W_2^T W_2 - W_1 W_1^T$ = `excess` times the identity."""
    rank = min(widths)
    small = (
        jnp.zeros(widths[1])
        .at[:rank]
        .set(scale * jr.uniform(key, (rank,), minval=0.5, maxval=1.5))
    )
    large = jnp.sqrt(small**2 + abs(excess))
    first, second = (small, large) if excess >= 0 else (large, small)
    first, second = first[: widths[0]], second[: widths[2]]
    return aligned(key, widths, first, second)[0]


# Against the independent implementation


def test_balanced_mode_agrees_with_the_reference(exact_reference):
    inputs, times, values = read(exact_reference["saxe2_sigma0.5"])
    root = jnp.sqrt(inputs["a0"])
    u, v = exact.two_layer_mode(times, inputs["s"], root, root)
    np.testing.assert_allclose(u * v, values, rtol=1e-12)


def test_unbalanced_mode_agrees_with_the_reference(exact_reference):
    inputs, times, values = read(exact_reference["two_layer_scalar_unbalanced"])
    weights = exact.two_layer_mode(times, inputs["s"], inputs["u0"], inputs["v0"])
    np.testing.assert_allclose(jnp.stack(weights), values, rtol=1e-12)


@pytest.mark.parametrize("depth", [1, 3, 4])
def test_balanced_chain_agrees_with_the_reference(exact_reference, depth):
    inputs, times, values = read(exact_reference[f"chain_balanced_L{depth}"])
    start = jnp.full(depth, inputs["a0"] ** (1 / depth))
    found = exact.chain_times(values, start, inputs["s"])
    np.testing.assert_allclose(found, times, rtol=1e-13)


def test_unbalanced_chain_agrees_with_the_reference(exact_reference):
    inputs, times, first = read(exact_reference["chain_unbalanced_L3_w1"])
    start = inputs["w0"]
    weights = jnp.sqrt(first[:, None] ** 2 + (start**2 - start[0] ** 2)[None])
    found = exact.chain_times(jnp.prod(weights, axis=1), start, inputs["s"])
    np.testing.assert_allclose(found, times, rtol=1e-13)


@pytest.mark.parametrize("name", ["riccati_sq", "riccati_lam+"])
def test_two_layers_agree_with_the_reference(exact_reference, name):
    inputs, times, values = read(exact_reference[name])
    network = jf.DeepLinear((inputs["W1"], inputs["W2"]))
    found = exact.two_layer_regression(white(inputs["T"]), network, times)
    np.testing.assert_allclose(found.product, values, atol=3e-14)


def test_symmetric_factorization_agrees_with_the_reference(exact_reference):
    inputs, times, values = read(exact_reference["symmetric_mf"])
    found = exact.symmetric_factorization(inputs["A"], inputs["U0"], times)
    np.testing.assert_allclose(found, values, atol=1e-14)


def test_tied_autoencoder_agrees_with_the_reference(exact_reference):
    inputs, times, values = read(exact_reference["autoencoder_tied"])
    starts = jnp.full(2, inputs["a0"])
    found = exact.autoencoder_modes(times, inputs["c"], starts, tied=True)
    np.testing.assert_allclose(found, values, rtol=1e-12)


def test_limit_of_diagonal_networks_agrees_with_the_reference(exact_reference):
    inputs, _, values = read(exact_reference["diagonal_uv_limit"])
    problem = jf.Regression.from_data(inputs["X"], inputs["y"])
    found = exact.diagonal_limit(problem, inputs["u0"], inputs["v0"])
    np.testing.assert_allclose(found, values, atol=1e-13)
    inputs, _, values = read(exact_reference["diagonal_u2v2_alpha0.1_limit"])
    sum_, difference = jnp.full(6, 2 * inputs["alpha"]), jnp.zeros(6)
    found = exact.diagonal_limit(problem, sum_, difference)
    np.testing.assert_allclose(found, values, atol=1e-13)


@pytest.mark.parametrize("name", ["arora_L2_3x3", "arora_L3_1x4", "arora_L10_1x5"])
def test_end_to_end_dynamics_agree_with_the_reference(exact_reference, name):
    inputs, times, values = read(exact_reference[name])
    problem = jf.Regression(inputs["T"], inputs["S"], jnp.zeros(()))
    depth = len(inputs["Ws"])
    velocity = lambda w: exact.end_to_end_velocity(problem, w, depth)
    found = integrate(velocity, values[0], times)
    np.testing.assert_allclose(found, values, atol=1e-9)  # 100 times the tolerance.


# Against the library's flow. Problems of two layers share shapes, and compile once.

WIDTHS, TIMES = (4, 3, 4), (0.0, 0.2, 0.5, 1.0, 3.0)


def test_flow_of_an_aligned_network_is_that_of_its_modes():
    first, second = jnp.array([0.1, 0.3, 0.0]), jnp.array([0.2, -0.4, 0.3])
    network, left, right = aligned(jr.key(0), WIDTHS, first, second)
    gains = jnp.array([2.0, 1.0, -0.5, 0.7])
    problem = white((left * gains[None]) @ right.T)
    found = flow(problem, network, TIMES)
    mode = lambda *args: exact.two_layer_mode(jnp.array(TIMES), *args)
    u, v = jax.vmap(mode, out_axes=1)(gains[:3], first, second)
    predicted = (left[None, :, :3] * (u * v)[:, None]) @ right[:, :3].T
    np.testing.assert_allclose(found, predicted, atol=AGREE)


@pytest.mark.parametrize("excess", [0.7, 0.0, -0.7])
def test_flow_of_two_layers_is_the_riccati_solution(excess):
    network = balanced(jr.key(1), WIDTHS, excess, scale=0.1)
    problem = white(jr.normal(jr.key(2), (4, 4)))
    found = flow(problem, network, TIMES)
    predicted = exact.two_layer_regression(problem, network, jnp.array(TIMES))
    np.testing.assert_allclose(found, predicted.product, atol=AGREE)


def test_flow_of_an_autoencoder_learns_components_one_by_one():
    variances, axes = jnp.array([2.0, 1.0, 0.5, 0.1]), orthogonal(jr.key(3), 4)
    x = 2 * jnp.sqrt(variances)[:, None] * axes.T  # Four samples: their mean is over 4.
    problem = jf.Regression.denoising(x, noise=0.0)
    starts = jnp.array([0.01, 0.05, 0.1])
    root = jnp.sqrt(starts)
    network = jf.DeepLinear((root[:, None] * axes.T[:3], axes[:, :3] * root[None]))
    found = flow(problem, network, TIMES)
    modes = exact.autoencoder_modes(jnp.array(TIMES), variances[:3], starts, tied=False)
    predicted = (axes[None, :, :3] * modes[:, None]) @ axes.T[:3]
    np.testing.assert_allclose(found, predicted, atol=AGREE)


class Tied(jf.AbstractLoss):
    """The error of an autoencoder whose layers are one."""

    error: jf.Regression

    @property
    def floor(self):
        return self.error.floor

    def excess(self, network):
        [weight] = network.weights
        return self.error.excess(jf.DeepLinear((weight.T, weight)))


def similarity(loss, network):
    [weight] = network.weights
    return weight @ weight.T


def test_flow_of_a_tied_autoencoder_learns_twice_as_fast():
    """With the usual factor one half, that is at half the speed."""
    variances, starts = jnp.array([2.0, 0.5, 0.1]), jnp.array([0.01, 0.1])
    problem = Tied(
        jf.Regression.denoising(jnp.sqrt(3 * variances)[:, None] * jnp.eye(3), noise=0.0)
    )
    network = jf.DeepLinear((jnp.zeros((3, 2)).at[:2].set(jnp.diag(jnp.sqrt(starts))),))
    found = jf.gradient_flow(
        0.5 * problem, network, TIMES, observe={"square": similarity}, rtol=RTOL, atol=1e-13
    ).observed["square"]
    times = 0.5 * jnp.array(TIMES)
    modes = exact.autoencoder_modes(times, variances[:2], starts, tied=True)
    predicted = jnp.zeros((len(TIMES), 3, 3)).at[:, :2, :2].set(jax.vmap(jnp.diag)(modes))
    np.testing.assert_allclose(found, predicted, atol=AGREE)


def test_flow_of_a_deep_aligned_network_is_that_of_chains():
    """One mode of equal weights, one of others, which arrive when they should."""
    starts = jnp.array([[0.3, 0.3, 0.3], [0.2, -0.7, -0.4]])
    left, right = orthogonal(jr.key(4), 4), orthogonal(jr.key(5), 4)
    gains, a, b = jnp.array([1.5, 1.0]), left[:, :2], right[:, :2]
    problem = jf.Regression((a * gains[None]) @ b.T, 0.8 * jnp.eye(4), jnp.zeros(()))
    first, second, third = starts.T
    network = jf.DeepLinear((first[:, None] * b.T, jnp.diag(second), a * third[None]))
    found = jnp.diagonal(a.T @ flow(problem, network, TIMES) @ b, axis1=1, axis2=2)
    for k in range(2):
        times = exact.chain_times(found[:, k], starts[k], gains[k], variance=0.8)
        # What is left of the target tells the time, to as many digits as it has.
        error = (times - jnp.array(TIMES)) * (gains[k] - found[:, k])
        np.testing.assert_allclose(error, 0.0, atol=AGREE)


def test_flow_of_a_deep_network_is_the_end_to_end_flow():
    """Through two neurons, for data that are not white."""
    x, y = jr.normal(jr.key(4), (30, 4)), jr.normal(jr.key(5), (30, 4))
    problem = jf.Regression.from_data(x, y)
    left, right = jr.normal(jr.key(6), (4, 2)), jr.normal(jr.key(7), (2, 4))
    first, second, third = jf.init.balanced(0.1 * left @ right, 3).weights
    network = jf.DeepLinear((first[:2], second[:2, :2], third[:, :2]))
    velocity = lambda w: exact.end_to_end_velocity(problem, w, 3, rank=2)
    predicted = integrate(velocity, network.product, jnp.array(TIMES))
    np.testing.assert_allclose(flow(problem, network, TIMES), predicted, atol=AGREE)


# Against their equations, which is exact: no integration, any time


MODES = [
    (2.0, 0.3, 0.3),
    (2.0, 0.3, -1.0),
    (-1.0, 0.3, 0.3),
    (1.5, 0.0, 0.1),
    (1.5, 0.0, 0.0),
    (0.0, 0.4, -0.4),
    (0.0, 0.3, 0.5),
    (2.0, 0.3, -0.3),
    (2.0, 1e-8, 1e-8),  # The last one: its differences would be too coarse.
]


@pytest.fixture(scope="module")
def modes():
    """Times, starts, weights, velocities of weights, and derivatives in the starts."""
    times = jnp.array([0.0, 0.1, 1.0, 10.0, 2000.0])
    target, u, v = jnp.array(MODES).T
    mode = lambda t, *args: jnp.stack(exact.two_layer_mode(t[None], *args, variance=0.8))

    def measure(t, *args):
        found = lambda t, *args: mode(t, *args)[:, 0]
        return found(t, *args), jax.jacfwd(found, argnums=(0, 1, 2, 3))(t, *args)

    over_times = jax.vmap(measure, in_axes=(0, None, None, None))
    weights, slopes = jax.jit(jax.vmap(over_times, in_axes=(None, 0, 0, 0)))(
        times, target, u, v
    )
    return times, target, jnp.stack([u, v], axis=1), weights, slopes


def test_modes_obey_their_equation(modes):
    _, target, start, weights, (velocity, *_) = modes
    u, v = weights[..., 0], weights[..., 1]
    pull = 1.6 * (target[:, None] - u * v)
    np.testing.assert_allclose(weights[:, 0], start, rtol=1e-15)
    np.testing.assert_allclose(velocity[..., 0], pull * v, atol=1e-13)
    np.testing.assert_allclose(velocity[..., 1], pull * u, atol=1e-13)


def test_modes_have_derivatives(modes):
    """Also where the target is zero and the start balanced; against differences."""
    times, *given = modes[0][:3], *jnp.array(MODES).T
    step, slopes = 1e-5, modes[-1]
    mode = jax.vmap(lambda *a: jnp.stack(exact.two_layer_mode(times, *a, variance=0.8), 1))
    for k in range(3):
        shifted = lambda d, k=k: [x + d if j == k else x for j, x in enumerate(given)]
        numeric = (mode(*shifted(step)) - mode(*shifted(-step))) / (2 * step)
        # Differences have errors of the step squared, and of eps over the step.
        np.testing.assert_allclose(slopes[1 + k][:-1, :3], numeric[:-1], atol=1e-6)


def test_modes_of_balanced_starts_on_the_wrong_side_end_at_zero(modes):
    _, _, _, weights, _ = modes
    wrong = np.array(MODES).tolist().index([2.0, 0.3, -0.3])
    np.testing.assert_array_equal(weights[wrong, -1], 0)
    right = np.array(MODES).tolist().index([2.0, 0.3, -1.0])
    np.testing.assert_allclose(jnp.prod(weights[right, -1]), 2.0, rtol=1e-14)


@jax.jit
def slope_of_times(values, start, target, change):
    times = lambda a: exact.chain_times(a, start, target, variance=0.8)
    return jax.jvp(times, (values,), (change,))[1]


@pytest.mark.parametrize(
    ("start", "target", "values"),
    [
        ((0.3, 0.5, 0.9), 1.5, (0.05, 0.2, 1.0, 1.49)),
        ((1e-7, 1e-7, 1e-6), 1.5, (1e-18, 0.2, 1.0, 1.49)),
        ((2.0, 1.0, 1.5), 1.5, (4.0, 2.0, 1.6, 1.501)),
        ((-0.3, 0.5, 0.9), 1.5, (-0.3, -0.1, -1e-3, -1e-6)),
        ((-0.3, 0.5, 0.9), -1.5, (-0.1, -0.2, -1.0, -1.49)),
        ((0.3, 0.5, 0.9), 0.0, (0.1, 1e-2, 1e-4, 1e-6)),
        ((0.1,), 1.5, (-1.0, 0.2, 1.0, 1.49)),
        ((2.0,), -0.5, (2.5, 1.0, 0.1, -0.2)),
    ],
)
def test_chains_obey_their_equation(start, target, values):
    start, values = jnp.array(start), jnp.array(values)
    ones = jnp.ones_like(values)
    found = slope_of_times(values, start, target, ones)
    gaps = start**2 - jnp.min(start**2)

    def inverse_speed(a):
        """With the smallest square from a polynomial, of which it is a simple root."""
        roots = np.roots(np.poly(-np.asarray(gaps)) - np.eye(start.size + 1)[-1] * a**2)
        square = max(r.real for r in roots if abs(r.imag) < 1e-12)
        return 1 / (1.6 * (target - a) * a**2 * np.sum(1 / (square + np.asarray(gaps))))

    kept = np.abs(values) > 1e-5  # Below, the polynomial loses digits.
    expected = [inverse_speed(float(a)) for a in values[kept]]
    np.testing.assert_allclose(found[kept], expected, rtol=1e-9)
    at_start = exact.chain_times(jnp.full(4, jnp.prod(start)), start, target)
    np.testing.assert_allclose(at_start, 0.0, atol=1e-14)


@pytest.mark.parametrize("weights", [(0.3, 0.5, 0.9), (0.5, 0.5, 0.5)])
def test_chain_times_have_derivatives(weights):
    """In weights and target, against differences."""
    values = jnp.array([0.05, 0.2, 1.0, 1.3])
    given, change = (jnp.array(weights), 1.5), (jnp.array([0.5, -0.3, 0.8]), 1.0)
    _, slope = slope_in_start(values, given, change)
    step = 1e-5
    shifted = lambda h: jax.tree.map(lambda x, d: x + h * d, given, change)
    above, below = (exact.chain_times(values, *shifted(h)) for h in (step, -step))
    # Differences have errors of the step squared, and of eps over the step.
    np.testing.assert_allclose(slope, (above - below) / (2 * step), rtol=1e-7, atol=1e-8)


@jax.jit
def slope_in_start(values, given, change):
    return jax.jvp(lambda *args: exact.chain_times(values, *args), given, change)


def test_chains_never_reach_values_beyond_target_or_zero():
    start, values = jnp.array([0.3, 0.5]), jnp.array([-0.1, 0.1, 1.4, 1.6])
    found = exact.chain_times(values, start, 1.5)
    np.testing.assert_array_equal(jnp.isnan(found), [True, False, False, True])
    with jax.debug_nans(False):
        assert jnp.all(jnp.isnan(exact.chain_times(values, 0.0 * start, 1.5)))


def test_long_times_are_the_sums_of_shorter_ones():
    """From weights of very different sizes; what is not resolved is `nan`, not wrong."""
    ratios = np.array([3.0, 1.0, 0.1])
    for least, known in ((1e-60, True), (1e-300, False)):
        squares = (ratios * least ** (1 / 3)) ** 2
        total, parts = exact.chain_times(jnp.array([0.9]), jnp.sqrt(squares), 1.0), 0.0
        while np.prod(squares) < 1e-4:
            # The smallest weight doubles, and differences of squares are conserved.
            grown = squares + 3 * squares.min()
            product = jnp.array([np.prod(np.sqrt(grown))])
            parts += exact.chain_times(product, jnp.sqrt(squares), 1.0)
            squares = grown
        parts += exact.chain_times(jnp.array([0.9]), jnp.sqrt(squares), 1.0)
        if known:
            np.testing.assert_allclose(total, parts, rtol=1e-12)
        else:
            assert np.all(np.isfinite(parts) & np.isnan(total))


CASES = {
    "larger last layer": ((5, 3, 4), 0.7, 0.5, "generic"),
    "bottleneck": ((5, 3, 4), 0.0, 0.1, "generic"),
    "larger first layer": ((5, 3, 4), -0.7, 1e-3, "generic"),
    "equal singular values": ((5, 3, 4), 0.0, 1e-3, "equal"),
    "equal, and unequal layers": ((5, 3, 4), 0.3, 0.1, "equal"),
    "rank one": ((5, 3, 4), 0.0, 1e-2, "rank one"),
    "zero target": ((5, 3, 4), 0.0, 1.0, "zero"),
    "zero start": ((5, 3, 4), 0.0, 0.0, "generic"),
    "more neurons than inputs": ((2, 3, 1), 0.0, 0.1, "generic"),
}


def with_slope(problem, network):
    times = jnp.array([0.0, 0.01, 0.3, 1.0, 3.0, 10.0, 100.0, 2000.0])
    solve = lambda t: exact.two_layer_regression(problem, network, t)
    return jax.jvp(solve, (times,), (jnp.ones_like(times),))


@pytest.fixture(scope="module", params=list(CASES), name="layers")
def two_layers(request):
    """A problem, a start, the solution, and its derivative in time."""
    widths, excess, scale, kind = CASES[request.param]
    shape = (widths[2], widths[0])
    target = {
        "generic": jr.normal(jr.key(0), shape),
        "equal": 1.5 * jnp.eye(*shape),
        "rank one": jnp.outer(jnp.arange(1.0, shape[0] + 1), jnp.ones(shape[1])) / 4,
        "zero": jnp.zeros(shape),
    }[kind]
    problem = jf.Regression(target, 0.8 * jnp.eye(shape[1]), jnp.zeros(()))
    network = balanced(jr.key(1), widths, excess, scale)
    return problem, network, *with_slope(problem, network)


def test_two_layers_obey_their_equation(layers):
    problem, network, found, slope = layers
    first, second = network.weights
    start = [w[0] for w in found]
    expected = (network.product, first.T @ first, second @ second.T)
    for a, b in zip(start, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-14)
    gap = problem.target[None] - found.product
    turn = lambda m: jnp.swapaxes(m, 1, 2)
    pull = 1.6 * turn(gap) @ found.product
    np.testing.assert_allclose(slope.first, pull + turn(pull), atol=1e-12)
    pull = 1.6 * gap @ turn(found.product)
    np.testing.assert_allclose(slope.second, pull + turn(pull), atol=1e-12)
    pull = 1.6 * (found.second @ gap + gap @ found.first)
    np.testing.assert_allclose(slope.product, pull, atol=1e-12)


def test_two_layers_stay_balanced_and_of_low_rank(layers):
    """What the squares of the layers have in common is conserved, at any time."""
    _, network, found, _ = layers
    hidden = network.widths[1]
    blocks = jnp.concatenate(
        [
            jnp.concatenate([found.first, jnp.swapaxes(found.product, 1, 2)], axis=2),
            jnp.concatenate([found.product, found.second], axis=2),
        ],
        axis=1,
    )
    beyond = jnp.linalg.eigvalsh(blocks)[:, :-hidden]
    np.testing.assert_allclose(beyond, 0.0, atol=1e-13)
    gap = jnp.trace(found.second, axis1=1, axis2=2) - jnp.trace(
        found.first, axis1=1, axis2=2
    )
    np.testing.assert_allclose(gap, gap[0], atol=1e-13)


@pytest.mark.parametrize("widths", [(5, 3, 4), (2, 3, 1)])
def test_two_layers_end_at_the_best_map_of_their_rank(widths):
    target = jr.normal(jr.key(0), (widths[2], widths[0]))
    found, _ = with_slope(white(target), balanced(jr.key(1), widths, 0.0, 0.1))
    left, values, right = jnp.linalg.svd(target, full_matrices=False)
    values = jnp.where(jnp.arange(values.size) < widths[1], values, 0)
    best = (left * values[None]) @ right
    np.testing.assert_allclose(found.product[-1], best, atol=1e-13)


def test_modes_that_the_start_lacks_are_never_found():
    """Though rounding has a share of all, and some of the others are found."""
    left, right = orthogonal(jr.key(0), 4), orthogonal(jr.key(1), 5)[:, :4]
    gains, roots = jnp.array([3.0, 2.0, 1.0, 0.5]), jnp.array([0.1, 0.0, 0.2])
    network = jf.DeepLinear((roots[:, None] * right.T[:3], left[:, :3] * roots[None]))
    found, _ = with_slope(white((left * gains[None]) @ right.T), network)
    learned = gains * jnp.array([1.0, 0.0, 1.0, 0.0])
    end = (left * learned[None]) @ right.T
    np.testing.assert_allclose(found.product[-1], end, atol=1e-13)


def test_symmetric_factors_obey_their_equation_for_any_signs():
    target = jr.normal(jr.key(0), (5, 5))
    target = target + target.T
    times = jnp.array([0.0, 0.1, 1.0, 2000.0])
    factor = 1e-3 * jr.normal(jr.key(1), (5, 2))
    solve = lambda t: exact.symmetric_factorization(target, factor, t)
    found, slope = jax.jvp(solve, (times,), (jnp.ones_like(times),))
    pull = 4 * (target[None] - found) @ found
    np.testing.assert_allclose(found[0], factor @ factor.T, atol=1e-15)
    np.testing.assert_allclose(slope, pull + jnp.swapaxes(pull, 1, 2), atol=1e-12)


def test_diagonal_networks_are_maps_of_the_sum_of_their_gradients():
    problem = jf.Regression.from_data(
        jr.normal(jr.key(0), (3, 6)), jr.normal(jr.key(1), (3,))
    )
    starts = jr.normal(jr.key(2), (2, 6))
    slope = jax.grad(lambda w: problem(jf.DeepLinear((w[None],))))

    def velocity(state):
        u, v, _ = state
        g = slope(u * v)
        return -g * v, -g * u, g

    start = (starts[0], starts[1], jnp.zeros(6))
    u, v, integral = (w[-1] for w in integrate(velocity, start, jnp.array([0.0, 100.0])))
    found = exact.diagonal_map(integral, *starts)
    np.testing.assert_allclose(found, u * v, atol=1e-9)  # 100 times the tolerance.
    limit = exact.diagonal_limit(problem, *starts)
    np.testing.assert_allclose(limit, u * v, atol=1e-9)


@pytest.mark.parametrize(
    "power",
    [3, *(pytest.param(power, marks=pytest.mark.exhaustive) for power in (1, 2, 4))],
)
def test_powers_are_maps_of_the_sum_of_their_gradients(power):
    """From unequal starts, of which those of odd powers may have any sign."""
    problem = jf.Regression.from_data(
        jr.normal(jr.key(0), (3, 6)), jr.normal(jr.key(1), (3,))
    )
    p, q = jr.uniform(jr.key(2), (2, 6), minval=0.5, maxval=1.0)
    p = p.at[0].multiply(-1)
    slope = jax.grad(lambda w: problem(jf.DeepLinear((w[None],))))

    def velocity(state):
        p, q, _ = state
        g = slope(p**power - q**power)
        push = power * g
        return -push * p ** (power - 1), push * q ** (power - 1), g

    p, q, integral = (w[-1] for w in integrate(velocity, (p, q, 0 * p), jnp.array([100.0])))
    starts = jr.uniform(jr.key(2), (2, 6), minval=0.5, maxval=1.0)
    starts = starts.at[0, 0].multiply(-1)
    found = exact.diagonal_map(integral, *starts, power=power)
    np.testing.assert_allclose(found, p**power - q**power, atol=1e-9)  # 100 tolerances.
    limit = exact.diagonal_limit(problem, *starts, power=power)
    np.testing.assert_allclose(limit, p**power - q**power, atol=1e-9)


def test_flow_of_powers_of_weights_ends_where_it_should():
    problem = jf.Regression.from_data(
        jr.normal(jr.key(0), (3, 6)), jr.normal(jr.key(1), (3,))
    )
    starts = jnp.full((2, 6), 0.3)
    network = jf.networks.DiagonalLinear(starts[:1], starts[1:], power=3)
    run = jf.gradient_flow(
        problem,
        network,
        (0.0, jnp.inf),
        tolerance=1e-20,
        rtol=RTOL,
        atol=1e-13,
        solver=dfx.Tsit5(),
    )
    limit = exact.diagonal_limit(problem, *starts, power=3)
    np.testing.assert_allclose(run.network.product[0], limit, atol=AGREE)


@pytest.mark.parametrize("power", [3, 10])
def test_limits_of_powers_have_least_norms(power):
    """Maps of 1e-9 at the start are small, and lose up to 7 digits, see there."""
    x, y = jr.normal(jr.key(0), (3, 6)), jr.normal(jr.key(1), (3,))
    problem = jf.Regression.from_data(x, y)
    limit = jax.jit(
        lambda scale: exact.diagonal_limit(problem, *jnp.full((2, 6), scale), power=power)
    )
    small = 1e-9 ** (1 / power)
    for scale in (small, 0.3, 1.0, 1e3):
        lost = max(1, scale ** (2 - power))
        np.testing.assert_allclose(x @ limit(scale), y, atol=1e-14 * lost + 1e-12)
    np.testing.assert_allclose(limit(1e3), problem.target[0], atol=1e-8)
    tiny = np.abs(limit(small)) < 1e-5
    np.testing.assert_allclose(np.sum(~tiny), 3)  # As many as samples.


def test_limits_of_diagonal_networks_have_least_norms():
    x, y = jr.normal(jr.key(0), (3, 6)), jr.normal(jr.key(1), (3,))
    problem = jf.Regression.from_data(x, y)
    limit = jax.jit(
        lambda scale: exact.diagonal_limit(problem, jnp.full(6, scale), jnp.zeros(6))
    )
    for scale in (1e-12, 1e-6, 1e-3, 1.0, 1e3, 1e6):
        np.testing.assert_allclose(x @ limit(scale), y, atol=1e-13)
    np.testing.assert_allclose(limit(1e6), problem.target[0], atol=1e-11)
    np.testing.assert_allclose(
        np.sum(np.abs(limit(1e-12)) > 1e-6), 3
    )  # As many as samples.


def test_limits_of_diagonal_networks_have_derivatives():
    x, y, u = jr.normal(jr.key(0), (3, 6)), jr.normal(jr.key(1), (3,)), jnp.full(6, 0.3)
    limit = jax.jit(
        lambda h: exact.diagonal_limit(
            jf.Regression.from_data(x, y + h), u + h, 0.1 * u - h
        )
    )
    zero, one, step = jnp.zeros(()), jnp.ones(()), 1e-5
    _, slope = jax.jvp(limit, (zero,), (one,))
    numeric = (limit(step * one) - limit(-step * one)) / (2 * step)
    np.testing.assert_allclose(slope, numeric, atol=1e-8)


def test_diagonal_networks_that_cannot_fit_have_no_limit():
    """With equal weights at the start, coordinates stay positive."""
    problem = jf.Regression.from_data(jnp.eye(2), jnp.array([1.0, -1.0]))
    with jax.debug_nans(False):
        assert jnp.all(jnp.isnan(exact.diagonal_limit(problem, *jnp.ones((2, 2)))))


@pytest.mark.parametrize("depth", [1, 2, 3, 10])
@pytest.mark.parametrize("rank", [3, 2, 0])
def test_end_to_end_velocity_is_that_of_the_layers(depth, rank):
    """Also from matrices of low rank, and from zero, and where inputs outnumber outputs."""
    problem = jf.Regression.from_data(
        jr.normal(jr.key(0), (20, 5)), jr.normal(jr.key(1), (20, 3))
    )
    w = jr.normal(jr.key(2), (3, rank)) @ jr.normal(jr.key(3), (rank, 5))
    a, s, b = jnp.linalg.svd(w, full_matrices=False)
    s = jnp.where(jnp.arange(3) < rank, s, 0) ** (1 / depth)
    weights = [s[:, None] * b, *[jnp.diag(s)] * (depth - 2), a * s[None]]
    network = jf.DeepLinear(tuple(weights) if depth > 1 else (w,))
    velocity = jax.tree.map(jnp.negative, jax.grad(problem)(network))
    _, expected = jax.jvp(lambda n: n.product, (network,), (velocity,))
    found = exact.end_to_end_velocity(problem, w, depth)
    np.testing.assert_allclose(found, expected, atol=1e-11)


# Transformations and messages


def test_batches_compile_and_agree_with_single_calls():
    target = jr.normal(jr.key(0), (4, 5))
    keys = jr.split(jr.key(1), 3)
    single = [with_slope(white(target), balanced(k, (5, 3, 4), 0.3)) for k in keys]

    @jax.jit
    @jax.vmap
    def solve(key):
        return with_slope(white(target), balanced(key, (5, 3, 4), 0.3))

    expected = jax.tree.map(lambda *xs: jnp.stack(xs), *single)
    for a, b in zip(jax.tree.leaves(solve(keys)), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


def test_two_layers_have_derivatives_in_the_target():
    """In reverse too, where eigenvalues are distinct."""
    target, times = jr.normal(jr.key(0), (4, 4)), jnp.array([0.5])
    network = balanced(jr.key(1), (4, 3, 4), 0.3)
    size = lambda t: jnp.sum(
        exact.two_layer_regression(white(t), network, times).product ** 2
    )
    change, step = jr.normal(jr.key(2), (4, 4)), 1e-5
    numeric = (size(target + step * change) - size(target - step * change)) / (2 * step)
    np.testing.assert_allclose(jnp.sum(jax.grad(size)(target) * change), numeric, rtol=1e-8)


def test_two_layers_need_white_inputs_two_layers_and_balance():
    network, times = balanced(jr.key(0), (3, 2, 3), 0.3), jnp.array([0.0, 1.0])
    problem = white(jnp.eye(3))
    stretched = jf.Regression(jnp.eye(3), jnp.diag(jnp.arange(1.0, 4.0)), jnp.zeros(()))
    with pytest.raises(ValueError, match=r"white inputs.*off by 1 from 2 times"):
        exact.two_layer_regression(stretched, network, times)
    first, second = network.weights
    with pytest.raises(ValueError, match=r"must be balanced.*off by"):
        exact.two_layer_regression(problem, jf.DeepLinear((2 * first, second)), times)
    three = jf.init.identity((3, 3, 3, 3))
    with pytest.raises(ValueError, match="must have 2 layers, but has 3"):
        exact.two_layer_regression(problem, three, times)
    with pytest.raises(ValueError, match="3 inputs to 3 outputs, but has 3 inputs and 2"):
        exact.two_layer_regression(problem, jf.init.identity((3, 2, 2)), times)
    read_out = jf.Regression.from_data(jnp.eye(3), jnp.eye(3), readout=jnp.eye(3))
    with pytest.raises(ValueError, match=r"must have no readout, but has one of shape \(3"):
        exact.two_layer_regression(read_out, network, times)


def test_end_to_end_velocity_needs_a_depth_a_rank_and_a_map_that_fits(problem):
    with pytest.raises(ValueError, match=r"depth=...\)` must be positive, but is 0"):
        exact.end_to_end_velocity(problem, jnp.ones((1, 5)), 0)
    with pytest.raises(ValueError, match=r"rank=...\)` must be positive, but is 0"):
        exact.end_to_end_velocity(problem, jnp.ones((1, 5)), 2, rank=0)
    with pytest.raises(ValueError, match="5 inputs to 1 outputs, but has 1 inputs and 5"):
        exact.end_to_end_velocity(problem, jnp.ones((5, 1)), 2)


def test_limits_of_diagonal_networks_need_one_output():
    with pytest.raises(ValueError, match="3 inputs to 3 outputs, but has 3 inputs and 1"):
        exact.diagonal_limit(white(jnp.eye(3)), jnp.ones(3), jnp.zeros(3))


def test_powers_of_diagonal_networks_are_positive():
    with pytest.raises(ValueError, match=r"power=...\)` must be positive, but is 0"):
        exact.diagonal_map(*jnp.ones((3, 2)), power=0)
