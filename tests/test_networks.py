"""Deep linear networks: their shapes, their products, and factors that do not chain."""

import itertools as it

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf
from jaxflow.networks import chain

WIDTHS = {
    "one layer": (3, 2),
    "square": (4, 4, 4),
    "ragged": (3, 5, 2, 4),
    "width one": (3, 1, 2),
    "all ones": (1, 1, 1),
}


def build(widths):
    draw = np.random.default_rng(0).normal
    shapes = ((then, first) for first, then in it.pairwise(widths))
    return jf.DeepLinear(tuple(jnp.asarray(draw(size=shape)) for shape in shapes))


def plain(matrices, size):
    """The product of matrices in the order that they act, by numpy."""
    product = np.eye(size)
    for matrix in matrices:
        product = np.asarray(matrix) @ product
    return product


@pytest.fixture(params=WIDTHS.values(), ids=WIDTHS.keys())
def deep(request):
    return build(request.param)


def test_the_product_applies_the_first_layer_first(deep):
    wanted = plain(deep.weights, deep.widths[0])
    np.testing.assert_allclose(deep.product, wanted, rtol=1e-13, atol=1e-13)


def test_partial_products_meet_in_the_product(deep):
    pairs = zip(deep.to_output, deep.from_input, strict=True)
    for after, before in pairs:
        np.testing.assert_allclose(after @ before, deep.product, rtol=1e-13, atol=1e-13)


def test_partial_products_from_the_input_apply_the_first_layers(deep):
    for k, partial in enumerate(deep.from_input):
        wanted = plain(deep.weights[:k], deep.widths[0])
        np.testing.assert_allclose(partial, wanted, rtol=1e-13, atol=1e-13)


def test_a_network_applied_is_its_product_applied(deep):
    x = jnp.arange(1.0, deep.widths[0] + 1)
    np.testing.assert_allclose(deep(x), deep.product @ x, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("widths", WIDTHS.values(), ids=WIDTHS.keys())
def test_widths_and_depth_are_those_of_the_weights(widths):
    deep = build(widths)
    assert (deep.widths, deep.depth) == (widths, len(widths) - 1)


def test_partial_products_of_one_layer_are_it_and_identities():
    deep = build((3, 2))
    [weight] = deep.weights
    for partial, wanted in (
        (deep.from_input, (np.eye(3), weight)),
        (deep.to_output, (weight, np.eye(2))),
    ):
        assert all(np.array_equal(a, b) for a, b in zip(partial, wanted, strict=True))


@pytest.mark.parametrize("widths", [(6, 4, 5, 1), (1, 5, 4, 6)], ids=["few out", "few in"])
def test_a_chain_from_its_thinner_end_is_the_plain_product(widths):
    factors = build(widths).weights[::-1]
    wanted = np.linalg.multi_dot([np.asarray(factor) for factor in factors])
    np.testing.assert_allclose(chain(*factors), wanted, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("widths", [(8, 8, 8, 1), (1, 8, 8, 8)], ids=["few out", "few in"])
def test_a_chain_never_multiplies_two_large_matrices(widths):
    jaxpr = jax.make_jaxpr(chain)(*build(widths).weights[::-1])
    products = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "dot_general"]
    assert all(1 in eqn.outvars[0].aval.shape for eqn in products)


def test_a_gradient_is_a_network_of_the_same_widths():
    deep = build((3, 5, 2, 4))
    gradient = jax.grad(lambda network: jnp.sum(network.product**2))(deep)
    assert isinstance(gradient, jf.DeepLinear)
    assert gradient.widths == deep.widths


def test_networks_batch():
    batch = jax.vmap(lambda s: jax.tree.map(lambda w: s * w, build((3, 5, 2))))(
        jnp.array([1.0, 2.0])
    )
    products = jax.vmap(lambda network: network.product)(batch)
    np.testing.assert_allclose(products[1], 4 * products[0], rtol=1e-13)


@pytest.mark.parametrize(
    ("shapes", "fact"),
    [
        ((), "must hold a layer, but is empty"),
        (
            ((3, 2), (4, 2)),
            r"layer 1 returns 3 .* layer 2 accepts 2 .*\(3, 2\) and \(4, 2\)",
        ),
        (((2, 2), (2, 2), (1, 3)), "layer 2 returns 2 .* layer 3 accepts 3"),
    ],
    ids=["no layers", "first pair", "last pair"],
)
def test_factors_that_do_not_chain_are_refused(shapes, fact):
    with pytest.raises(ValueError, match=fact):
        jf.DeepLinear(tuple(jnp.ones(shape) for shape in shapes))
