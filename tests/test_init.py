"""Starts: their shapes, their distribution, and what each is built to satisfy."""

import itertools as it

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import jaxflow as jf

init, normal = jf.init, jax.nn.initializers.normal
SQUARE, RAGGED = (4, 4, 4), (4, 3, 5, 1)
OF_WIDTHS = {
    "gaussian": init.gaussian,
    "orthogonal": init.orthogonal,
    "balanced_rank_one": init.balanced_rank_one,
    "draw": lambda widths, *, scale, key: init.draw(widths, normal(scale), key=key),
}
STARTS = OF_WIDTHS | {
    "residual": lambda widths, **options: init.residual(4, len(widths) - 1, **options)
}
start = pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
of_widths = pytest.mark.parametrize("start", OF_WIDTHS.values(), ids=OF_WIDTHS)
close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


def many(start):
    """The weights of two thousand starts, each stacked along its first axis."""
    network = jax.jit(jax.vmap(lambda key: start(key=key)))(jr.split(jr.key(3), 2000))
    return [np.asarray(weight) for weight in network.weights]


def assert_moments(samples, moments):
    """Entries have these moments, within four standard errors of independent samples."""
    for power, moment in moments.items():
        powers = samples**power
        errors = powers.std(axis=0) / len(powers) ** 0.5
        assert np.abs((powers.mean(axis=0) - moment) / errors).max() < 4


def assert_balanced(network):
    for first, then in it.pairwise(network.weights):
        close(first @ first.T, then.T @ then)


@of_widths
def test_a_start_has_the_widths_asked_for(start):
    assert start(RAGGED, scale=0.5, key=jr.key(0)).widths == RAGGED


@start
def test_a_batch_of_starts_holds_those_of_its_keys(start):
    keys = jr.split(jr.key(1), 3)
    batch = jax.vmap(lambda key: start(SQUARE, scale=0.5, key=key))(keys)
    for k, key in enumerate(keys):
        alone = start(SQUARE, scale=0.5, key=key)
        jax.tree.map(lambda some, one, k=k: close(some[k], one), batch, alone)


@start
def test_the_derivative_in_the_scale_is_the_difference_of_two_scales(start):
    at = lambda scale: start(SQUARE, scale=scale, key=jr.key(2))
    _, slope = jax.jvp(at, (0.7,), (1.0,))
    # All are linear in it.
    jax.tree.map(lambda s, a, b: close(s, b - a), slope, at(0.7), at(1.7))


def test_gaussian_entries_have_the_moments_of_a_normal_of_that_scale():
    for weight in many(lambda key: init.gaussian((4, 3, 2), scale=0.5, key=key)):
        assert_moments(weight, {1: 0, 2: 0.25, 4: 3 * 0.5**4})


@start
def test_layers_are_not_correlated(start):
    first, then = many(lambda key: start((4, 4, 4), scale=0.5, key=key))
    assert_moments((first - first.mean(axis=0)) * (then - then.mean(axis=0)), {1: 0})


def test_residual_layers_are_the_identity_plus_small_normal_entries():
    depth, width, scale = 3, 4, 0.8
    layers = many(lambda key: init.residual(width, depth, scale=scale, key=key))
    assert len(layers) == depth
    for weight in layers:
        noise = (weight - np.eye(width)) * (depth * width) ** 0.5 / scale
        assert_moments(noise, {1: 0, 2: 1, 4: 3})


def test_fan_in_starts_have_the_variance_of_their_inputs():
    fan_in = jax.nn.initializers.lecun_normal()
    layers = many(lambda key: init.draw((6, 3, 2), fan_in, key=key))
    for weight, inputs in zip(layers, (6, 3), strict=True):
        assert_moments(weight, {1: 0, 2: 1 / inputs})


def test_orthogonal_layers_have_equal_singular_values():
    for weight in init.orthogonal(RAGGED, scale=0.3, key=jr.key(0)).weights:
        close(np.linalg.svd(weight, compute_uv=False), 0.3)


def test_orthogonal_layers_have_no_direction_of_their_own():
    [weight] = many(lambda key: init.orthogonal((3, 3), key=key))
    assert_moments(weight, {1: 0, 2: 1 / 3, 4: 3 / 15})


def test_balanced_rank_one_layers_have_rank_one_and_the_norm_asked_for():
    for weight in init.balanced_rank_one(RAGGED, scale=0.3, key=jr.key(0)).weights:
        values = np.linalg.svd(weight, compute_uv=False)
        close(values, [0.3] + [0] * (len(values) - 1))


def test_balanced_rank_one_layers_are_balanced():
    assert_balanced(init.balanced_rank_one(RAGGED, scale=0.3, key=jr.key(0)))


def test_balanced_rank_one_layers_are_aligned(problem):
    network = init.balanced_rank_one(RAGGED, scale=0.3, key=jr.key(0))
    close(jf.alignment(problem, network), 1)


def test_balanced_rank_one_layers_have_uniform_directions():
    [weight] = many(lambda key: init.balanced_rank_one((3, 2), scale=1.0, key=key))
    assert_moments(weight, {1: 0, 2: 1 / 6})


PRODUCTS = {
    "wide": np.random.default_rng(0).normal(size=(3, 4)),
    "tall": np.random.default_rng(1).normal(size=(4, 3)),
    "one output": np.array([[1.0, -2.0, 3.0]]),
    "one input": np.array([[1.0], [-2.0], [3.0]]),
    "one by one": np.array([[-2.0]]),
    "rank one": np.outer([1.0, 2.0, -1.0], [2.0, 0.0, 1.0, 3.0]),
    "identity": np.eye(3),
    "zero": np.zeros((3, 4)),
}


@pytest.mark.parametrize("extra", [None, 2], ids=["thin", "wider than the rank"])
@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("product", PRODUCTS.values(), ids=PRODUCTS)
def test_a_balanced_factorization_is_balanced_and_keeps_the_product(product, depth, extra):
    outputs, inputs = product.shape
    width = min(product.shape) + (extra or 0)
    network = init.balanced(jnp.asarray(product), depth, width=width if extra else None)
    assert network.widths == (inputs, *(depth - 1) * [width], outputs)
    close(network.product, product)
    assert_balanced(network)


def test_balanced_factorizations_batch():
    products = jr.normal(jr.key(0), (3, 2, 4))
    close(jax.vmap(lambda product: init.balanced(product, 3).product)(products), products)


@of_widths
@pytest.mark.parametrize("widths", [(), (3,), (3, 0, 1), (3, -1)], ids=str)
def test_widths_that_make_no_network_are_refused(start, widths):
    with pytest.raises(ValueError, match=r"`init\.\w+\(widths=...\).* must .*, but is "):
        start(widths, scale=1.0, key=jr.key(0))


SIZES = {
    "residual.*depth.* 0": lambda: init.residual(3, 0, scale=1.0, key=jr.key(0)),
    "residual.*width.* 0": lambda: init.residual(0, 3, scale=1.0, key=jr.key(0)),
    "balanced.*depth.* 0": lambda: init.balanced(jnp.ones((2, 3)), 0),
    r"least 2 .*\(2, 3\).* 1": lambda: init.balanced(jnp.ones((2, 3)), 2, width=1),
}


@pytest.mark.parametrize(("fact", "build"), SIZES.items(), ids=SIZES)
def test_sizes_that_make_no_network_are_refused_by_name(fact, build):
    with pytest.raises(ValueError, match=fact):
        build()


@pytest.mark.parametrize("widths", [(3, 3, 3), (3, 5, 2, 4), (2, 4)])
def test_zero_residuals_are_balanced_whatever_the_widths(problem, widths):
    start = jf.init.identity(widths)
    assert start.widths == widths
    np.testing.assert_array_equal(jf.imbalance(problem, start), 0)
    ones = np.arange(min(widths))
    wanted = np.zeros((widths[-1], widths[0]))
    wanted[ones, ones] = 1
    np.testing.assert_array_equal(start.product, wanted)


FACTORS = {
    "wide": ((3, 5, 4, 2), 2),
    "rank of one": ((3, 5, 1, 4), 1),
    "no product": ((3, 2, 3), 0),
    "one layer": ((3, 4), 2),
}


@pytest.mark.parametrize(("widths", "rank"), FACTORS.values(), ids=FACTORS)
def test_random_factorizations_keep_the_product_and_nothing_else(problem, widths, rank):
    draw = np.random.default_rng(0).normal
    product = jnp.asarray(draw(size=(widths[-1], rank)) @ draw(size=(rank, widths[0])))
    build = lambda key, scale: jf.init.factorization(product, widths, scale=scale, key=key)
    networks = jax.vmap(lambda key: build(key, 0.5))(jr.split(jr.key(0), 20))
    assert tuple(w.shape[1:] for w in networks.weights) == tuple(
        (then, first) for first, then in it.pairwise(widths)
    )
    for k in range(20):
        one = jax.tree.map(lambda w: w[k], networks)  # noqa: B023
        np.testing.assert_allclose(one.product, product, atol=1e-11)
    balanced = build(jr.key(1), 0.0)
    np.testing.assert_allclose(balanced.product, product, atol=1e-12)
    np.testing.assert_allclose(jf.imbalance(problem, balanced), 0, atol=1e-12)
    if len(widths) > 2 and rank:
        assert jnp.max(jf.imbalance(problem, one)) > 0.01


@pytest.mark.parametrize(
    ("widths", "fact"),
    [((3, 2, 3), "product's rank, 3"), ((2, 3, 3), "from 3 inputs"), ((3,), "widths")],
)
def test_widths_that_cannot_hold_the_product_are_refused(widths, fact):
    with pytest.raises(ValueError, match=fact):
        jf.init.factorization(jnp.eye(3), widths, scale=0.1, key=jr.key(0))


def test_every_layer_of_a_convolutional_network_can_have_its_own_scale():
    options = {"activation": jnp.tanh, "key": jr.key(0)}
    build = lambda scale: init.convolutional(
        (3, 8, 8), (20, 10), 3, 4, scale=scale, **options
    )
    network, scales = build(np.array([0.2, 0.5, 0.1])), (0.2, 0.5, 0.1)
    assert network.readout.shape == (4, 10 * 8 * 8)
    for numbers, scale in zip(jax.tree.leaves(network), scales, strict=True):
        error = scale / (2 * numbers.size) ** 0.5  # Of the deviation of normal numbers.
        assert abs(np.std(numbers) - scale) < 4 * error
    same = build(0.2).kernels[0]
    np.testing.assert_array_equal(network.kernels[0], same)


def test_a_convolutional_network_without_convolutions_is_refused():
    with pytest.raises(ValueError, match=r"channels=...\)` must hold at least 1"):
        init.convolutional(
            (1, 8, 8), (), 3, 2, scale=1.0, activation=jnp.tanh, key=jr.key(0)
        )
