"""Starts: their shapes, their distribution, and what each is built to satisfy."""

import itertools as it

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import jaxflow as jf

WIDTHS = (4, 4, 4)
STARTS = {
    "gaussian": lambda scale, key: jf.init.gaussian(WIDTHS, scale=scale, key=key),
    "orthogonal": lambda scale, key: jf.init.orthogonal(WIDTHS, scale=scale, key=key),
    "residual": lambda scale, key: jf.init.residual(4, 2, scale=scale, key=key),
    "balanced_rank_one": lambda scale, key: jf.init.balanced_rank_one(
        WIDTHS, scale=scale, key=key
    ),
    "draw": lambda scale, key: jf.init.draw(
        WIDTHS, jax.nn.initializers.normal(scale), key=key
    ),
}
RAGGED = (4, 3, 5, 1)
OF_WIDTHS = {
    "gaussian": lambda widths, key: jf.init.gaussian(widths, scale=0.5, key=key),
    "orthogonal": lambda widths, key: jf.init.orthogonal(widths, key=key),
    "balanced_rank_one": lambda widths, key: jf.init.balanced_rank_one(
        widths, scale=0.5, key=key
    ),
    "draw": lambda widths, key: jf.init.draw(
        widths, jax.nn.initializers.lecun_normal(), key=key
    ),
}
start = pytest.mark.parametrize("start", STARTS.values(), ids=STARTS.keys())
of_widths = pytest.mark.parametrize("start", OF_WIDTHS.values(), ids=OF_WIDTHS.keys())


def many(start, *, count=2000):
    """The weights of many starts, each stacked along its first axis."""
    network = jax.jit(jax.vmap(start))(jr.split(jr.key(3), count))
    return [np.asarray(weight) for weight in network.weights]


def z_score(samples, mean):
    """How many standard errors independent samples are off their mean, at most."""
    errors = samples.std(axis=0) / len(samples) ** 0.5
    return np.abs((samples.mean(axis=0) - mean) / errors).max()


def grams(network):
    """What a balanced network has equal in neighbouring layers."""
    for first, then in it.pairwise(map(np.asarray, network.weights)):
        yield first @ first.T, then.T @ then


@of_widths
def test_a_start_has_the_widths_asked_for(start):
    assert start(RAGGED, jr.key(0)).widths == RAGGED


@start
def test_a_start_has_the_default_precision(start):
    assert {w.dtype for w in start(0.5, jr.key(0)).weights} == {np.dtype("float64")}


@start
def test_a_batch_of_starts_holds_those_of_its_keys(start):
    keys = jr.split(jr.key(1), 3)
    batch = jax.vmap(lambda key: start(0.5, key))(keys)
    for k, key in enumerate(keys):
        for some, alone in zip(batch.weights, start(0.5, key).weights, strict=True):
            np.testing.assert_allclose(some[k], alone, rtol=1e-12, atol=1e-13)


@start
def test_the_derivative_in_the_scale_is_the_difference_of_two_scales(start):
    at = lambda scale: start(scale, jr.key(2)).weights
    _, slope = jax.jvp(at, (0.7,), (1.0,))
    difference = jax.tree.map(jnp.subtract, at(1.7), at(0.7))  # All are linear in it.
    for a, b in zip(slope, difference, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


@start
def test_the_layers_of_a_start_differ(start):
    first, then = start(0.5, jr.key(0)).weights
    assert not np.allclose(first, then)


def test_gaussian_entries_have_the_moments_of_a_normal_of_that_scale():
    for weight in many(lambda key: jf.init.gaussian((4, 3, 2), scale=0.5, key=key)):
        for power, moment in ((1, 0), (2, 0.25), (4, 3 * 0.5**4)):
            assert z_score(weight**power, moment) < 4


def test_gaussian_layers_are_independent():
    first, then = many(lambda key: jf.init.gaussian(WIDTHS, scale=0.5, key=key))
    assert z_score(first * then, 0) < 4


def test_residual_layers_are_the_identity_plus_small_normal_entries():
    depth, width, scale = 3, 4, 0.8
    layers = many(lambda key: jf.init.residual(width, depth, scale=scale, key=key))
    assert len(layers) == depth
    for weight in layers:
        noise = (weight - np.eye(width)) * (depth * width) ** 0.5 / scale
        for power, moment in ((1, 0), (2, 1), (4, 3)):
            assert z_score(noise**power, moment) < 4


def test_a_residual_start_of_scale_zero_is_the_identity():
    for weight in jf.init.residual(3, 2, scale=0.0, key=jr.key(0)).weights:
        assert np.array_equal(weight, np.eye(3))


def test_fan_in_starts_have_the_variance_of_their_inputs():
    initializer = jax.nn.initializers.lecun_normal()
    layers = many(lambda key: jf.init.draw((6, 3, 2), initializer, key=key))
    for weight, inputs in zip(layers, (6, 3), strict=True):
        assert z_score(weight**2, 1 / inputs) < 4


def test_orthogonal_layers_have_equal_singular_values():
    for weight in jf.init.orthogonal(RAGGED, scale=0.3, key=jr.key(0)).weights:
        values = np.linalg.svd(weight, compute_uv=False)
        np.testing.assert_allclose(values, 0.3, rtol=1e-12)


def test_orthogonal_layers_have_no_direction_of_their_own():
    [weight] = many(lambda key: jf.init.orthogonal((3, 3), key=key))
    for power, moment in ((1, 0), (2, 1 / 3), (4, 3 / 15)):
        assert z_score(weight**power, moment) < 4


def test_balanced_rank_one_layers_have_rank_one_and_the_norm_asked_for():
    network = jf.init.balanced_rank_one(RAGGED, scale=0.3, key=jr.key(0))
    for weight in network.weights:
        values = np.linalg.svd(weight, compute_uv=False)
        np.testing.assert_allclose(values, [0.3] + [0] * (len(values) - 1), atol=1e-15)


def test_balanced_rank_one_layers_are_balanced():
    for a, b in grams(jf.init.balanced_rank_one(RAGGED, scale=0.3, key=jr.key(0))):
        np.testing.assert_allclose(a, b, atol=1e-15)


def test_balanced_rank_one_layers_are_aligned(problem):
    network = jf.init.balanced_rank_one(RAGGED, scale=0.3, key=jr.key(0))
    np.testing.assert_allclose(jf.alignment(problem, network), 1, rtol=1e-12)


def test_balanced_rank_one_layers_have_uniform_directions():
    [weight] = many(lambda key: jf.init.balanced_rank_one((3, 2), scale=1.0, key=key))
    assert z_score(weight, 0) < 4
    assert z_score(weight**2, 1 / 6) < 4


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
@pytest.mark.parametrize("product", PRODUCTS.values(), ids=PRODUCTS.keys())
def test_a_balanced_factorisation_is_balanced_and_keeps_the_product(product, depth, extra):
    width = None if extra is None else min(product.shape) + extra
    network = jf.init.balanced(jnp.asarray(product), depth, width=width)
    hidden = width or min(product.shape)
    assert network.widths == (product.shape[1], *(depth - 1) * [hidden], product.shape[0])
    np.testing.assert_allclose(network.product, product, rtol=1e-12, atol=1e-13)
    for a, b in grams(network):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


def test_balanced_factorisations_batch():
    products = jr.normal(jr.key(0), (3, 2, 4))
    batch = jax.vmap(lambda product: jf.init.balanced(product, 3))(products)
    found = jax.vmap(lambda network: network.product)(batch)
    np.testing.assert_allclose(found, products, rtol=1e-12, atol=1e-13)


@of_widths
@pytest.mark.parametrize("widths", [(), (3,), (3, 0, 1), (3, -1)], ids=str)
def test_widths_that_make_no_network_are_refused(start, widths):
    with pytest.raises(ValueError, match=r"all positive, but is \("):
        start(widths, jr.key(0))


@pytest.mark.parametrize(
    ("build", "fact"),
    [
        (lambda: jf.init.residual(3, 0, scale=1.0, key=jr.key(0)), "residual.*depth.* 0"),
        (lambda: jf.init.residual(0, 3, scale=1.0, key=jr.key(0)), "residual.*width.* 0"),
        (lambda: jf.init.balanced(jnp.ones((2, 3)), 0), "balanced.*depth.* 0"),
        (
            lambda: jf.init.balanced(jnp.ones((2, 3)), 2, width=1),
            r"at least 2 .*\(2, 3\).* 1",
        ),
    ],
    ids=["residual depth", "residual width", "balanced depth", "balanced width"],
)
def test_sizes_that_make_no_network_are_refused_by_name(build, fact):
    with pytest.raises(ValueError, match=fact):
        build()
