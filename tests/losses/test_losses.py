"""Losses: data reduced to moments, sums and factors, and data that are refused."""

import itertools as it
from fractions import Fraction

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.special import log_softmax, softmax

import jaxflow as jf
from jaxflow._fast import descent_lanes as lanes
from jaxflow.observables import invariant

BUILDERS = {"regression": jf.Regression.from_data, "MeanSquaredError": jf.MeanSquaredError}
builder = pytest.mark.parametrize("builder", BUILDERS.values(), ids=BUILDERS)


def sample(samples, inputs, outputs, *, copies=0, hidden=None):
    """Data with noise, the last inputs copies of the first, and perhaps a readout."""
    draw = np.random.default_rng(0).normal
    x = draw(size=(samples, inputs - copies))
    x = np.hstack([x, x[:, :copies]])
    y = x @ draw(size=(inputs, outputs)) + draw(size=(samples, outputs))
    return x, y, None if hidden is None else draw(size=(outputs, hidden))


CASES = {
    "overdetermined": sample(9, 4, 1),
    "underdetermined": sample(3, 4, 1),
    "a column twice": sample(9, 4, 1, copies=1),
    "one sample": sample(1, 4, 1),
    "one input": sample(9, 1, 1),
    "three outputs": sample(9, 4, 3),
    "readout": sample(9, 4, 1, hidden=3),
    "readout of three outputs": sample(9, 4, 3, hidden=2),
}
case = pytest.mark.parametrize(("x", "y", "readout"), CASES.values(), ids=CASES)
X, Y, _ = CASES["overdetermined"]


def fitting(x, y, readout=None):
    """A network of two layers that fits the data."""
    out = y.shape[1] if readout is None else readout.shape[1]
    return jf.init.gaussian((x.shape[1], 4, out), scale=0.5, key=jr.key(0))


@case
def test_the_moments_give_the_error_of_the_samples(x, y, readout):
    network = fitting(x, y, readout)
    by_moments, by_samples = (b(x, y, readout=readout) for b in BUILDERS.values())
    np.testing.assert_allclose(by_moments(network), by_samples(network), rtol=1e-12)


def test_the_error_is_the_mean_over_samples_of_the_sum_over_outputs():
    x, y, readout = CASES["readout of three outputs"]
    network = fitting(x, y, readout)
    gap = x @ (readout @ np.asarray(network.product)).T - y
    loss = jf.MeanSquaredError(x, y, readout=readout)
    np.testing.assert_allclose(loss(network), np.sum(gap**2) / 9, rtol=1e-12)


@case
def test_the_target_is_the_least_squares_solution_of_smallest_norm(x, y, readout):
    target = jf.Regression.from_data(x, y, readout=readout).target
    np.testing.assert_allclose(target, np.linalg.lstsq(x, y)[0].T, rtol=1e-11, atol=1e-13)


@case
def test_the_floor_is_the_least_squares_residual(x, y, readout):
    residual = np.sum((y - x @ np.linalg.lstsq(x, y)[0]) ** 2) / len(x)
    floor = jf.Regression.from_data(x, y, readout=readout).floor
    np.testing.assert_allclose(floor, residual, rtol=1e-12, atol=1e-26)


@case
def test_the_loss_never_falls_below_its_floor(x, y, readout):
    loss = jf.Regression.from_data(x, y, readout=readout)
    # Along inputs without variance the excess is rounding, of this size.
    unit = 1e-15 * jnp.linalg.norm(loss.covariance)
    for size in (0.0, 1e-3, 1.0, 1e3):
        network = jax.tree.map(lambda w, size=size: size * w, fitting(x, y, readout))
        gap = jnp.linalg.norm(loss.linear_map(network) - loss.target)
        assert loss.excess(network) >= -unit * gap**2


def test_the_excess_is_accurate_far_below_the_rounding_of_the_loss(problem):
    step = 1e-10 * jr.normal(jr.key(0), problem.target.shape)
    # Powers of two and zeros: no rounding in the product.
    network = jf.DeepLinear((2 * jnp.eye(5), (problem.target + step) / 2))
    exact = lambda values: np.vectorize(Fraction, otypes=[object])(np.asarray(values))
    gap = exact(network.product) - exact(problem.target)
    wanted = float((gap @ exact(problem.covariance) @ gap.T).item())
    assert 1e-21 < wanted < 1e-18
    np.testing.assert_allclose(problem.excess(network), wanted, rtol=1e-8)


def test_targets_and_readouts_in_one_dimension_are_of_one_output():
    readout = np.array([1.0, 2.0])
    flat, full = (
        jf.Regression.from_data(X, Y[:, 0], readout=readout),
        jf.Regression.from_data(X, Y),
    )
    assert np.array_equal(flat.target, full.target)
    assert np.array_equal(flat.readout, readout[None])


def test_integers_are_data():
    x, y = np.arange(12).reshape(6, 2) ** 2, np.array([1, 0, 2, 1, 3, 5])
    with jax.numpy_dtype_promotion("standard"):
        loss = jf.Regression.from_data(x, y)
    wanted = np.linalg.lstsq(x.astype(float), y.astype(float))[0]
    np.testing.assert_allclose(loss.target[0], wanted, rtol=1e-11)


@pytest.mark.parametrize("name", ["overdetermined", "underdetermined", "three outputs"])
def test_derivatives_in_the_data_are_finite_differences(name):
    x, y, _ = CASES[name]
    network = fitting(x, y)
    draw = np.random.default_rng(1).normal
    dx, dy = draw(size=x.shape), draw(size=y.shape)

    def at(t):
        loss = jf.Regression.from_data(x + t * dx, y + t * dy)
        return jnp.stack([loss.excess(network), loss.floor, jnp.sum(loss.target**2)])

    # The error of the central difference is of order 1e-10, from both its causes.
    difference = (at(1e-5) - at(-1e-5)) / 2e-5
    forward, reverse = (jacobian(at)(0.0) for jacobian in (jax.jacfwd, jax.jacrev))
    np.testing.assert_allclose(forward, difference, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(reverse, forward, rtol=1e-10, atol=1e-12)


@builder
def test_losses_batch_over_data(builder):
    xs, ys = np.stack([X, 2 * X, X[::-1]]), np.stack([Y, Y, Y])
    value = lambda x, y: builder(x, y)(fitting(X, Y))
    alone = [value(x, y) for x, y in zip(xs, ys, strict=True)]
    np.testing.assert_allclose(jax.vmap(value)(xs, ys), alone, rtol=1e-12)


def test_mini_batches_of_a_partition_average_to_the_loss():
    loss = 0.5 * jf.MeanSquaredError(X, Y) + jf.WeightDecay(0.1)
    parts = jr.permutation(jr.key(0), loss.samples).reshape(3, 3)
    values = eqx.filter_vmap(lambda part: loss.select(part)(fitting(X, Y)))(parts)
    np.testing.assert_allclose(values.mean(), loss(fitting(X, Y)), rtol=1e-12)
    assert np.ptp(values) > 0.01


def test_mini_batches_of_losses_with_different_samples_are_refused():
    both = jf.MeanSquaredError(X, Y) + jf.MeanSquaredError(X[:3], Y[:3])
    with pytest.raises(ValueError, match=r"\[3, 9\]"):
        _ = both.samples


def test_weight_decay_is_the_squared_norm_of_the_weights(network):
    squares = sum(np.sum(np.asarray(w) ** 2) for w in network.weights)
    np.testing.assert_allclose(jf.WeightDecay(0.3)(network), 0.3 * squares, rtol=1e-13)


def test_weight_decay_can_differ_from_layer_to_layer(network):
    squares = [np.sum(np.asarray(w) ** 2) for w in network.weights]
    found = jf.WeightDecay((0.1, 0.2, 0.3))(network)
    np.testing.assert_allclose(found, np.dot([0.1, 0.2, 0.3], squares), rtol=1e-13)


@pytest.mark.parametrize("name", ["one sample", "three outputs", "readout"])
def test_noisy_neurons_are_the_mean_over_all_masks(name):
    x, y, readout = CASES[name]
    sizes = x.shape[1], 2, 3, y.shape[1] if readout is None else readout.shape[1]
    weights = [
        np.random.default_rng(k).normal(size=s[::-1])
        for k, s in enumerate(it.pairwise(sizes))
    ]
    read = np.eye(sizes[-1]) if readout is None else readout
    variances = np.array([0.25, 1.5])
    kept, total = 1 / (1 + variances), 0.0
    for masks in it.product((0, 1), repeat=5):
        first, second = np.array(masks[:2]), np.array(masks[2:])
        odds = [
            np.prod(np.where(m, p, 1 - p))
            for m, p in zip((first, second), kept, strict=True)
        ]
        h = (x @ weights[0].T) * first / kept[0]
        h = (h @ weights[1].T) * second / kept[1]
        total += np.prod(odds) * np.sum((h @ weights[2].T @ read.T - y) ** 2) / len(x)
    loss = jf.losses.ExpectedNoisyLoss(
        jf.Regression.from_data(x, y, readout=readout), variances
    )
    network = jf.DeepLinear(tuple(map(jnp.asarray, weights)))
    np.testing.assert_allclose(loss(network), total, rtol=1e-13)


def test_without_noise_or_hidden_layers_noisy_neurons_are_the_regression():
    problem = jf.Regression.from_data(X, Y)
    for widths, variance in (((4, 3, 1), 0.0), ((4, 1), ())):
        network = jf.init.gaussian(widths, scale=1.0, key=jr.key(0))
        assert jf.losses.ExpectedNoisyLoss(problem, variance)(network) == problem(network)


@pytest.mark.parametrize(
    "factors", [jf.networks.gaussian_factors, jf.networks.dropout_factors]
)
def test_samples_of_noisy_neurons_average_to_their_expectation(factors):
    x, y, _ = CASES["three outputs"]
    network = jf.init.gaussian((4, 3, 2, 3), scale=0.7, key=jr.key(0))
    many = jf.losses.SampledNoisyLoss(
        jf.MeanSquaredError(x, y), (0.3, 0.6), jr.key(1), 1000, factors
    )
    values = jax.vmap(many.error.criterion)(many.outputs(network))
    np.testing.assert_allclose(values.mean(), many(network), rtol=1e-12)
    exact = jf.losses.ExpectedNoisyLoss(jf.Regression.from_data(x, y), (0.3, 0.6))(network)
    assert abs(values.mean() - exact) < 4 * values.std() / len(values) ** 0.5


def test_noise_is_independent_for_every_sample_and_neuron():
    network = jf.DeepLinear((jnp.ones((3, 1)), jnp.eye(3)))
    loss = jf.losses.SampledNoisyLoss(
        jf.MeanSquaredError(np.ones((2000, 1)), np.zeros((2000, 3))), 0.5, jr.key(0)
    )
    [factors] = loss.outputs(network)
    np.testing.assert_allclose(np.cov(factors.T), 0.5 * np.eye(3), atol=0.08)
    assert len(np.unique(factors)) == factors.size


def test_steps_on_samples_of_noisy_neurons_average_to_those_on_their_expectation():
    """With noise that is fresh in every step: so small that the network stays."""
    network, decay = fitting(X, Y), jf.WeightDecay((0.1, 0.2))
    sampled = jf.losses.SampledNoisyLoss(jf.MeanSquaredError(X, Y), 0.5, jr.key(0)) + decay
    options = {"batch_size": 9, "key": jr.key(1), "observe": {"network": jf.weights}}
    run = jf.gradient_descent(sampled, network, 2000, step_size=1e-9, **options)
    exact = jf.losses.ExpectedNoisyLoss(jf.Regression.from_data(X, Y), 0.5) + decay
    slopes = jax.grad(exact.excess)(network).weights
    for path, slope in zip(run.observed["network"].weights, slopes, strict=True):
        steps = -np.diff(path, axis=0) / 1e-9
        error = steps.std(axis=0) / len(steps) ** 0.5
        assert np.all(np.abs(steps.mean(axis=0) - slope) < 4.5 * error)
        assert np.all(np.ptp(steps, axis=0) > 0.1)


STRENGTHS = {
    "negative variance": (
        lambda: jf.losses.ExpectedNoisyLoss(jf.Regression.from_data(X, Y), -0.1),
        "-0.1",
    ),
    "variances": (
        lambda: jf.losses.ExpectedNoisyLoss(jf.Regression.from_data(X, Y), (1.0, 1.0))(
            fitting(X, Y)
        ),
        r"each of 1 layers.*\(2,\)",
    ),
    "negative samples": (
        lambda: jf.losses.SampledNoisyLoss(
            jf.MeanSquaredError(X, Y), (0.1, -1.0), jr.key(0)
        ),
        "not be negative",
    ),
    "no draws": (
        lambda: jf.losses.SampledNoisyLoss(jf.MeanSquaredError(X, Y), 0.1, jr.key(0), 0),
        "positive, but is 0",
    ),
    "neurons": (
        lambda: jf.networks.NoisyNetwork(fitting(X, Y), (0.1, 0.1, 0.1)),
        r"\(3,\)",
    ),
    "decay": (lambda: jf.WeightDecay((0.1, np.nan)), "must not be negative"),
    "decays": (
        lambda: jf.WeightDecay((0.1,) * 3)(fitting(X, Y)),
        r"each of 2 layers.*\(3,\)",
    ),
}


@pytest.mark.parametrize(("make", "fact"), STRENGTHS.values(), ids=STRENGTHS)
def test_strengths_that_make_no_sense_are_refused(make, fact):
    with pytest.raises(ValueError, match=fact):
        make()


@case
def test_moments_are_enough_for_a_regression(x, y, readout):
    del readout
    wanted, size = jf.Regression.from_data(x, y), len(x)
    found = jf.Regression.from_moments(x.T @ x / size, y.T @ x / size, np.sum(y**2) / size)
    np.testing.assert_allclose(found.target, wanted.target, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(found.floor, wanted.floor, rtol=1e-8, atol=1e-12)


MOMENTS = {
    "shapes": (np.eye(2), np.ones(3), 1.0, r"\(2, 2\), \(1, 3\)"),
    "nan": (np.eye(2), np.array([1.0, np.nan]), 1.0, "cross=.*finite"),
    "skew": (np.array([[1.0, 1.0], [0.0, 1.0]]), np.ones(2), 9.0, "symmetric"),
    "indefinite": (np.diag([1.0, -0.1]), np.ones(2), 20.0, "least eigenvalue is -0.1"),
    "range": (np.diag([1.0, 0.0]), np.ones(2), 9.0, "0.7071 of it is outside"),
    "power": (np.eye(2), np.ones(2), 1.0, "at least 2"),
}


@pytest.mark.parametrize(
    ("covariance", "cross", "power", "fact"), MOMENTS.values(), ids=MOMENTS
)
def test_moments_that_no_data_have_are_refused(covariance, cross, power, fact):
    with pytest.raises(ValueError, match=fact):
        jf.Regression.from_moments(covariance, cross, power)


@pytest.mark.parametrize(
    ("combine", "factors"),
    [
        (lambda a, b: a + b, (1, 1)),
        (lambda a, b: 0.5 * a, (0.5, 0)),
        (lambda a, b: 0.5 * (a + 0.5 * b) + a, (1.5, 0.25)),
    ],
    ids=["sum", "half", "weighted sum of sums"],
)
@pytest.mark.parametrize(
    "read",
    [
        lambda loss, network: loss(network),
        lambda loss, network: loss.floor,
        lambda loss, network: loss.excess(network),
        lambda loss, network: jax.grad(loss)(network).weights[0],
        lambda loss, network: jf.sharpness(loss, network),  # Decay shifts all curvatures.
    ],
    ids=["value", "floor", "excess", "gradient", "sharpness"],
)
def test_sums_and_factors_act_on_everything_linear(
    problem, network, combine, factors, read
):
    terms = (problem, jf.WeightDecay(0.3))
    wanted = sum(f * read(term, network) for f, term in zip(factors, terms, strict=True))
    found = read(combine(*terms), network)
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-14)


NAN_X, INF_Y = X.copy(), Y.copy()
NAN_X[2, 1], NAN_X[4, 0], INF_Y[3, 0] = np.nan, np.nan, np.inf
REFUSED = {
    "nan in x": (NAN_X, Y, None, r"x=.* 2 of 36 entries .* index \(2, 1\)"),
    "infinite y": (X, INF_Y, None, r"y=.* 1 of 9 entries .* index \(3, 0\)"),
    "nan in p": (X, Y, np.array([1, np.nan]), r"readout=.* 1 of 2 .* index \(0, 1\)"),
    "no samples": (X[:0], Y[:0], None, r"must hold data.* \(0, 4\) and \(0, 1\)"),
    "no inputs": (X[:, :0], Y, None, r"must hold data.* \(9, 0\) and \(9, 1\)"),
    "no outputs": (X, Y[:, :0], None, r"must hold data.* \(9, 4\) and \(9, 0\)"),
    "lengths": (X, Y[:5], None, r"one sample a row.* \(9, 4\) and \(5, 1\)"),
    "x flat": (X[:, 0], Y, None, r"one sample a row.* \(9,\) and \(9, 1\)"),
    "y of 3 dimensions": (X, Y[..., None], None, r"one sample a row.* \(9, 1, 1\)"),
    "y a number": (X, Y[0, 0], None, r"one sample a row.* \(9, 4\) and \(\)"),
    "readout": (X, Y, np.ones((2, 3)), r"each of 1 outputs.* \(2, 3\)"),
}


@builder
@pytest.mark.parametrize(("x", "y", "readout", "fact"), REFUSED.values(), ids=REFUSED)
def test_data_that_make_no_problem_are_refused(builder, x, y, readout, fact):
    with pytest.raises(ValueError, match=fact):
        builder(x, y, readout=readout)


@builder
@pytest.mark.parametrize(
    ("widths", "readout", "fact"),
    [((5, 2, 1), None, "4 inputs"), ((4, 3), None, "1 output"), ((4, 2), "p", "3 inputs")],
    ids=["inputs", "outputs", "readout"],
)
def test_a_network_that_does_not_fit_is_refused(builder, widths, readout, fact):
    network = jf.init.gaussian(widths, scale=1.0, key=jr.key(0))
    with pytest.raises(ValueError, match=fact):
        builder(X, Y, readout=readout and np.ones(3))(network)


def test_a_network_that_does_not_fit_is_told_its_widths():
    network = jf.init.gaussian((5, 2, 1), scale=1.0, key=jr.key(0))
    with pytest.raises(ValueError, match=r"\(5, 2, 1\)"):
        jf.Regression.from_data(X, Y)(network)


@pytest.mark.parametrize("factor", [-1.0, np.nan])
def test_a_factor_must_be_positive(factor):
    with pytest.raises(ValueError, match=r"`factor \* loss` must not be negative"):
        factor * jf.WeightDecay(1.0)


@pytest.mark.parametrize("noise", [1.25, 0.0])
def test_denoising_is_regression_on_ever_more_noisy_copies(noise):
    """With antithetic orthogonal noise the moments of copies are those in expectation."""
    x = CASES["a column twice"][0]
    size = x.shape[1]
    steps = noise * size**0.5 * np.concatenate([np.eye(size), -np.eye(size)])
    noisy = (x[:, None] + steps[None]).reshape(-1, size)
    copies = jf.Regression.from_data(noisy, np.repeat(x, 2 * size, axis=0))
    found = jf.Regression.denoising(x, noise=noise)
    np.testing.assert_allclose(found.covariance, copies.covariance, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.target, copies.target, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.floor, copies.floor, rtol=1e-10, atol=1e-12)


def test_a_negative_noise_is_refused():
    with pytest.raises(ValueError, match="must not be negative, but is -1"):
        jf.Regression.denoising(X, noise=-1)


@pytest.mark.parametrize("case", ["three outputs", "readout"])
def test_white_inputs_leave_the_loss_to_a_network_that_undoes_them(case):
    x, y, readout = CASES[case]
    problem = jf.Regression.from_data(x, y, readout=readout)
    white, inverse = jf.losses.whiten(problem)
    np.testing.assert_array_equal(white.covariance, np.eye(x.shape[1]))
    out = y.shape[1] if readout is None else readout.shape[1]
    there = jf.init.gaussian((x.shape[1], 3, out), scale=1.0, key=jr.key(0))
    first, *others = there.weights
    here = jf.DeepLinear((first @ inverse, *others))
    np.testing.assert_allclose(problem(here), white(there), rtol=1e-12)


def test_a_singular_covariance_cannot_be_whitened():
    problem = jf.Regression.from_data(*CASES["a column twice"][:2])
    with pytest.raises(ValueError, match="rank 3 of 4"):
        jf.losses.whiten(problem)


def symmetric(size, rank):
    factor = np.random.default_rng(3).normal(size=(size, rank))
    return jf.networks.SymmetricLinear(jnp.asarray(factor))


def test_white_moments_make_a_factorization_of_a_matrix():
    a = np.random.default_rng(0).normal(size=(3, 4))
    loss = jf.Regression.from_moments(np.eye(4), a, np.sum(a**2))
    network = jf.init.gaussian((4, 2, 3), scale=0.5, key=jr.key(0))
    wanted = np.sum((np.asarray(network.product) - a) ** 2)
    np.testing.assert_allclose(loss(network), wanted, rtol=1e-12)
    a = a.T @ a
    loss, network = jf.Regression.from_moments(np.eye(4), a, np.sum(a**2)), symmetric(4, 2)
    u = np.asarray(network.factor)
    np.testing.assert_allclose(loss(network), np.sum((u @ u.T - a) ** 2), rtol=1e-12)
    slope = jax.grad(loss.excess)(network).factor
    np.testing.assert_allclose(slope, 4 * (u @ u.T - a) @ u, rtol=1e-11, atol=1e-11)


def test_denoising_without_noise_makes_an_autoencoder_tied_or_not():
    untied = jf.init.gaussian((4, 2, 4), scale=0.5, key=jr.key(0))
    for network in (untied, symmetric(4, 2)):
        gap = X @ np.asarray(network.product).T - X
        loss = jf.Regression.denoising(X, noise=0.0)
        np.testing.assert_allclose(loss(network), np.sum(gap**2) / 9, rtol=1e-12)


LINEAR = {
    "diagonal": (jf.networks.DiagonalLinear(jnp.array([[0.5, -1.0, 2.0, 0.1]] * 2)), Y),
    "symmetric": (symmetric(4, 2), X),
}


@pytest.mark.parametrize(("network", "y"), LINEAR.values(), ids=LINEAR)
def test_moments_are_enough_for_every_linear_network(network, y):
    read = np.arange(1.0, 1 + y.shape[1])[None] if y.shape[1] > 1 else np.ones((1, 1))
    for readout, target in ((None, y), (read, Y)):
        by_moments, by_samples = (b(X, target, readout=readout) for b in BUILDERS.values())
        np.testing.assert_allclose(by_moments(network), by_samples(network), rtol=1e-12)
        gap = by_moments.linear_map(network) - by_moments.target
        np.testing.assert_allclose(
            jf.observables.distance(by_moments, network), np.linalg.norm(gap)
        )


@pytest.mark.parametrize(("network", "y"), LINEAR.values(), ids=LINEAR)
def test_what_is_known_of_deep_linear_networks_is_not_said_of_others(network, y):
    loss = jf.Regression.from_data(X, y)
    assert loss.least_excess(network) is None
    assert lanes.find(loss, network) is None
    assert invariant.find(loss, network) is None
    with pytest.raises(ValueError, match=f"ExpectedNoisyLoss.*{type(network).__name__}"):
        jf.losses.ExpectedNoisyLoss(loss, 0.1)(network)


@pytest.mark.parametrize("widths", [(4, 1, 3), (4, 2, 3), (4, 3, 3), (4, 5, 2, 3)])
def test_a_bottleneck_leaves_what_the_best_map_of_its_rank_leaves(widths):
    """That of least squares whose predictions keep their largest singular values."""
    x, y, _ = CASES["three outputs"]
    loss, rank = jf.Regression.from_data(x, y), min(widths)
    predicted = x @ np.linalg.lstsq(x, y)[0]
    left, values, right = np.linalg.svd(predicted, full_matrices=False)
    kept = (left[:, :rank] * values[:rank]) @ right[:rank]
    wanted = np.sum((y - kept) ** 2) / len(x) - float(loss.floor)
    network = jf.init.gaussian(widths, scale=0.5, key=jr.key(0))
    np.testing.assert_allclose(loss.least_excess(network), wanted, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose((2 * loss).least_excess(network), 2 * wanted, atol=1e-12)
    if rank == 1:
        run = jf.gradient_flow(loss, network, (0.0, np.inf))
        np.testing.assert_allclose(loss.excess(run.network), wanted, rtol=1e-9)
        assert run.status == jf.Status.CONVERGED


def test_behind_a_bottleneck_the_second_best_map_is_a_saddle():
    """Maps of rank one at rest: one for each singular value, and only the top is least."""
    loss = jf.Regression(jnp.diag(jnp.array([2.0, 1.0])), jnp.eye(2), jnp.zeros(()))
    for axis, status in ((0, jf.Status.CONVERGED), (1, jf.Status.SADDLE)):
        unit = jnp.eye(2)[axis]
        size = (2.0 - axis) ** 0.5
        network = jf.DeepLinear((size * unit[None], size * unit[:, None]))
        run = jf.gradient_flow(loss, network, (0.0, 1.0))
        assert run.status == status
        np.testing.assert_allclose(loss.excess(run.network), (1.0, 4.0)[axis], rtol=1e-12)


def test_moments_are_not_enough_for_a_network_that_is_not_linear():
    network = jf.MLP(fitting(X, Y).weights, jnp.tanh)
    for loss in (
        jf.Regression.from_data(X, Y),
        jf.losses.MatrixSensing(X[:, None], Y[:, 0]),
    ):
        with pytest.raises(ValueError, match=r"must be linear.*`MLP`.*MeanSquaredError"):
            loss(network)
    with pytest.raises(ValueError, match=r"4 inputs.* widths \(3, 3\)"):
        jf.Regression.from_data(X, Y)(symmetric(3, 2))


MATRICES = np.random.default_rng(5).normal(size=(9, 4, 4))


@pytest.mark.parametrize(
    "network",
    [jf.init.gaussian((4, 2, 4), scale=0.5, key=jr.key(0)), symmetric(4, 2)],
    ids=["deep", "symmetric"],
)
def test_matrices_are_sensed_by_their_inner_products(network):
    loss, matrix = jf.losses.MatrixSensing(MATRICES, Y[:, 0]), np.asarray(network.product)
    seen = np.array([np.trace(a.T @ matrix) for a in MATRICES])
    np.testing.assert_allclose(loss(network), np.mean((seen - Y[:, 0]) ** 2), rtol=1e-12)
    parts = jr.permutation(jr.key(0), loss.samples).reshape(3, 3)
    values = [loss.select(part)(network) for part in parts]
    np.testing.assert_allclose(np.mean(values), loss(network), rtol=1e-12)


def test_rows_that_are_sensed_are_a_regression_of_one_output():
    network = fitting(X, Y)
    sensing = jf.losses.MatrixSensing(X[:, None], Y[:, 0])
    np.testing.assert_allclose(
        sensing(network), jf.Regression.from_data(X, Y)(network), rtol=1e-12
    )


LABELS = np.array([0, 2, 1, 1, 0, 2, 2, 0, 1])


def classifying(scale=0.5, outputs=3):
    weights = jf.init.gaussian((4, 5, outputs), scale=scale, key=jr.key(2)).weights
    return jf.MLP(weights, jnp.tanh)


@pytest.mark.parametrize("scale", [0.5, 3.0, 30.0])
def test_the_cross_entropy_is_that_of_the_softmax(scale):
    loss, network = jf.CrossEntropy(X, LABELS), classifying(scale)
    logits = np.asarray(jax.vmap(network)(jnp.asarray(X)))
    logs = log_softmax(logits, axis=1)[np.arange(9), LABELS]
    np.testing.assert_allclose(loss(network), -logs.mean(), rtol=1e-12)
    slope = jax.jit(jax.grad(loss.criterion))(jnp.asarray(logits))
    wanted = (softmax(logits, axis=1) - np.eye(3)[LABELS]) / 9
    np.testing.assert_allclose(slope, wanted, rtol=1e-9, atol=1e-15)
    wrong = np.mean(logits.argmax(axis=1) != LABELS)
    np.testing.assert_allclose(loss.errors(network), wrong, rtol=1e-15)
    assert jf.committee.error_rate(loss, network) == loss.errors(network)


def test_the_cross_entropy_is_accurate_where_it_is_nearly_zero():
    loss = jf.CrossEntropy(np.ones((1, 1)), np.array([1]))
    logits = jnp.array([[0.0, 60.0, 1.0]])
    wanted = np.log1p(np.exp(-60.0) + np.exp(-59.0))
    np.testing.assert_allclose(loss.criterion(logits), wanted, rtol=1e-14)
    curvature = jax.jit(jax.hessian(loss.criterion))(logits)[0, :, 0]
    odds = np.exp([-60.0, 0.0, -59.0])
    odds[1] = -np.exp(-60.0) - np.exp(-59.0)
    np.testing.assert_allclose(curvature[1], -odds, rtol=1e-12)


def test_the_curvature_of_the_cross_entropy_is_the_variance_of_the_softmax():
    loss, logits = jf.CrossEntropy(X[:1], LABELS[1:2]), np.array([[0.3, -1.0, 2.0]])
    odds = softmax(logits[0])
    found = jax.jit(jax.hessian(loss.criterion))(jnp.asarray(logits))[0, :, 0]
    np.testing.assert_allclose(found, np.diag(odds) - np.outer(odds, odds), atol=1e-15)


def test_a_sample_is_right_only_if_its_class_is_strictly_ahead():
    x = np.array([[1.0, 0.0], [0.0, 1.0], [1e308, 1e308]])
    loss = jf.CrossEntropy(x, np.zeros(3, int))
    network = jf.DeepLinear((jnp.array([[2.0, 1.0], [1.0, 1.0]]),))
    np.testing.assert_array_equal(loss.margins(network), [1, 0, np.nan])
    np.testing.assert_allclose(loss.errors(network), 2 / 3)
    assert not jf.committee.zero_training_error(loss, network)
    assert jf.committee.zero_training_error(loss.select(jnp.array([0])), network)


def test_the_flow_of_the_cross_entropy_is_that_of_logistic_regression():
    start = np.random.default_rng(4).normal(size=(3, 4))

    def velocity(_, w):
        odds = softmax(X @ w.reshape(3, 4).T, axis=1)
        return -((odds - np.eye(3)[LABELS]).T @ X / 9).ravel()

    way = solve_ivp(velocity, (0, 4.0), start.ravel(), rtol=1e-11, atol=1e-11)
    network, loss = jf.DeepLinear((jnp.asarray(start),)), jf.CrossEntropy(X, LABELS)
    options = {"solver": dfx.Tsit5(), "rtol": 1e-10, "atol": 1e-10}
    end = jf.gradient_flow(loss, network, (0.0, 4.0), **options).network
    np.testing.assert_allclose(end.product.ravel(), way.y[:, -1], rtol=1e-7, atol=1e-8)


def test_mini_batches_of_labels_are_learned():
    loss, network = jf.CrossEntropy(X, LABELS), classifying()
    options = {"step_size": 0.3, "every": 1000, "batch_size": 3, "key": jr.key(0)}
    observe = {"error": jf.committee.error_rate, "loss": jf.loss_value}
    run = jf.gradient_descent(loss, network, 2000, observe=observe, **options)
    assert run.observed["loss"][-1] < 0.1 < run.observed["loss"][0]
    assert run.observed["error"][-1] == 0
    assert run.status == jf.Status.CONVERGED


def test_the_sharpness_of_the_cross_entropy_is_the_top_of_its_hessian():
    loss, network = jf.CrossEntropy(X, LABELS), classifying()
    dense = jax.jit(lambda n: jf.hessian(loss, n).as_matrix())(network)
    np.testing.assert_allclose(
        jf.sharpness(loss, network), np.linalg.eigvalsh(dense)[-1], rtol=1e-9
    )


NO_LABELS = {
    "floats": (lambda: jf.CrossEntropy(X, Y[:, 0]), "integers, but are of type float64"),
    "negative": (lambda: jf.CrossEntropy(X, LABELS - 1), "go down to -1"),
    "lengths": (lambda: jf.CrossEntropy(X, LABELS[:5]), r"\(9, 4\) and \(5,\)"),
    "columns": (lambda: jf.CrossEntropy(X, LABELS[:, None]), r"\(9, 4\) and \(9, 1\)"),
    "nan": (lambda: jf.CrossEntropy(NAN_X, LABELS), r"x=.* 2 of 36 entries"),
    "classes": (
        lambda: jf.CrossEntropy(X, LABELS)(classifying(outputs=2)),
        r"each of 3 classes.*returns \(2,\)",
    ),
    "classes in a run": (
        lambda: jf.gradient_flow(
            jf.CrossEntropy(X, LABELS), classifying(outputs=2), (0.0, 1.0)
        ),
        r"each of 3 classes.*returns \(2,\)",
    ),
    "one output": (
        lambda: jf.CrossEntropy(X, 0 * LABELS)(classifying(outputs=1)),
        r"each of 2 classes.*returns \(1,\)",
    ),
    "vectors": (lambda: jf.losses.MatrixSensing(X, Y[:, 0]), r"\(9, 4\) and \(9,\)"),
    "measured": (lambda: jf.losses.MatrixSensing(MATRICES, Y), r"\(9, 4, 4\) and \(9, 1\)"),
    "infinite": (lambda: jf.losses.MatrixSensing(MATRICES, INF_Y[:, 0]), r"y=.* 1 of 9"),
    "matrix": (
        lambda: jf.losses.MatrixSensing(MATRICES, Y[:, 0])(symmetric(3, 2)),
        r"shape \(4, 4\).* \(3, 3\)",
    ),
}


@pytest.mark.parametrize(("make", "fact"), NO_LABELS.values(), ids=NO_LABELS)
def test_labels_and_measurements_that_make_no_problem_are_refused(make, fact):
    with pytest.raises(ValueError, match=fact):
        make()


def test_a_factor_of_a_regression_is_the_other_convention_in_all_theories(problem):
    half, names = 0.5 * problem, jf.papers
    sharpest, matrix = names.marion_chizat_2024, names.mulayoff_michaeli_2020
    for function in (sharpest.flattest_sharpness, matrix.least_trace):
        np.testing.assert_allclose(function(half, 3), function(problem, 3) / 2, rtol=1e-12)
    late, early = (sharpest.escape_time(p, 3, 1e-3) for p in (half, problem))
    np.testing.assert_allclose(late, 2 * early, rtol=1e-12)
    decayed = names.ziyin_li_meng_2022.minimum
    one, other = decayed(half, (2, 2), decay=0.05), decayed(problem, (2, 2), decay=0.1)
    np.testing.assert_allclose(one.map, other.map, rtol=1e-9)
    np.testing.assert_allclose(one.loss, other.loss / 2, rtol=1e-9)
