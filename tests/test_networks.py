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
}
close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-13)


def build(widths):
    draw = np.random.default_rng(0).normal
    shapes = ((then, first) for first, then in it.pairwise(widths))
    return jf.DeepLinear(tuple(jnp.asarray(draw(size=shape)) for shape in shapes))


@pytest.fixture(params=WIDTHS.values(), ids=WIDTHS)
def deep(request):
    return build(request.param)


def test_partial_products_from_the_input_apply_the_first_layers(deep):
    wanted = np.eye(deep.widths[0])
    for partial, then in it.zip_longest(deep.from_input, deep.weights):
        close(partial, wanted)
        wanted = wanted if then is None else np.asarray(then) @ wanted


def test_partial_products_meet_in_the_product(deep):
    for after, before in zip(deep.to_output, deep.from_input, strict=True):
        close(after @ before, deep.product)


def test_a_network_applied_is_its_product_applied(deep):
    x = jnp.arange(1.0, deep.widths[0] + 1)
    close(deep(x), deep.product @ x)


@pytest.mark.parametrize("widths", WIDTHS.values(), ids=WIDTHS)
def test_widths_and_depth_are_those_of_the_weights(widths):
    assert (build(widths).widths, build(widths).depth) == (widths, len(widths) - 1)


@pytest.mark.parametrize("widths", [(6, 4, 5, 1), (1, 5, 4, 6)], ids=["few out", "few in"])
def test_a_chain_from_its_thinner_end_is_the_plain_product(widths):
    factors = build(widths).weights[::-1]
    close(chain(*factors), np.linalg.multi_dot([np.asarray(factor) for factor in factors]))


@pytest.mark.parametrize("widths", [(8, 8, 8, 1), (1, 8, 8, 8)], ids=["few out", "few in"])
def test_a_chain_never_multiplies_two_large_matrices(widths):
    steps = jax.make_jaxpr(chain)(*build(widths).weights[::-1]).eqns
    products = [step for step in steps if step.primitive.name == "dot_general"]
    assert all(1 in step.outvars[0].aval.shape for step in products)


def test_a_gradient_is_a_network_of_the_same_widths():
    deep = build(WIDTHS["ragged"])
    gradient = jax.grad(lambda network: jnp.sum(network.product**2))(deep)
    assert isinstance(gradient, jf.DeepLinear)
    assert gradient.widths == deep.widths


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
)
def test_factors_that_do_not_chain_are_refused(shapes, fact):
    with pytest.raises(ValueError, match=fact):
        jf.DeepLinear(tuple(jnp.ones(shape) for shape in shapes))


def test_residual_layers_add_to_what_they_are_given():
    weights = build((3, 3, 3)).weights
    network = jf.ResidualMLP(weights, jnp.tanh)
    x = jnp.array([0.2, -0.4, 1.0])
    hidden = x + weights[0] @ jnp.tanh(x)
    close(network(x), hidden + weights[1] @ jnp.tanh(hidden))
    still = jax.tree.map(jnp.zeros_like, network)
    close(still(x), x)


def test_the_layers_jacobians_multiply_to_that_of_the_network():
    network = jf.ResidualMLP(build((3, 3, 3)).weights, jnp.tanh)
    x = jnp.array([0.2, -0.4, 1.0])
    close(network.linearised(x).product, jax.jacrev(network)(x))
    deep = build((3, 5, 2, 4))
    jax.tree.map(close, deep.linearised(x), deep)


def test_residual_layers_that_are_not_square_are_refused():
    with pytest.raises(ValueError, match=r"widths \(3, 4, 3\).*readout"):
        jf.ResidualMLP(build((3, 4, 3)).weights, jnp.tanh)
