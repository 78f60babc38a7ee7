"""Networks: their shapes, what they compute, and weights that do not fit together."""

import itertools as it

import diffrax as dfx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.signal import correlate2d

import jaxflow as jf
from jaxflow.networks.layered import chain

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
    network = jf.networks.ResidualMLP(weights, jnp.tanh)
    x = jnp.array([0.2, -0.4, 1.0])
    hidden = x + weights[0] @ jnp.tanh(x)
    close(network(x), hidden + weights[1] @ jnp.tanh(hidden))
    still = jax.tree.map(jnp.zeros_like, network)
    close(still(x), x)


def test_the_layers_jacobians_multiply_to_that_of_the_network():
    network = jf.networks.ResidualMLP(build((3, 3, 3)).weights, jnp.tanh)
    x = jnp.array([0.2, -0.4, 1.0])
    close(network.linearized(x).product, jax.jacrev(network)(x))
    deep = build((3, 5, 2, 4))
    jax.tree.map(close, deep.linearized(x), deep)


def test_residual_layers_that_are_not_square_are_refused():
    with pytest.raises(ValueError, match=r"widths \(3, 4, 3\).*readout"):
        jf.networks.ResidualMLP(build((3, 4, 3)).weights, jnp.tanh)


U, V = jnp.array([[0.5, -1.0, 2.0], [0.3, 0.7, -0.4]])
DIAGONALS = {
    "product": (jf.networks.DiagonalLinear(jnp.stack([U, V])), U * V),
    "squares": (jf.networks.DiagonalLinear(U[None], V[None], power=2), U**2 - V**2),
    "cubes": (jf.networks.DiagonalLinear(U[None], V[None], power=3), U**3 - V**3),
    "ragged": (
        jf.networks.DiagonalLinear(jnp.stack([U, V]), U[None], power=2),
        (U * V) ** 2 - U**2,
    ),
}


@pytest.mark.parametrize(("network", "wanted"), DIAGONALS.values(), ids=DIAGONALS)
def test_diagonal_layers_multiply_entry_by_entry(network, wanted):
    close(network.product, wanted[None])
    close(network(V), wanted[None] @ V)


def test_the_flow_of_two_diagonal_layers_is_a_mirror_flow():
    r"""With $G = \int \nabla_w$ whatever the loss (Woodworth et al., 2020)."""
    draw = np.random.default_rng(0).normal
    x, y = draw(size=(6, 3)), draw(size=(6, 1))
    (u, v), times = np.array([U, V]), np.linspace(0.0, 1.5, 4)

    def velocity(_, state):
        u, v, _ = state.reshape(3, 3)
        slope = 2 / 6 * x.T @ (x @ (u * v) - y[:, 0])
        return np.concatenate([-slope * v, -slope * u, slope])

    start = np.concatenate([u, v, np.zeros(3)])
    way = solve_ivp(velocity, (0, 1.5), start, t_eval=times, rtol=1e-12, atol=1e-12)
    past = way.y[6:].T
    row = ((u + v) ** 2 * np.exp(-2 * past) - (u - v) ** 2 * np.exp(2 * past)) / 4
    options = {"solver": dfx.Tsit5(), "rtol": 1e-10, "atol": 1e-10}
    network, watch = DIAGONALS["product"][0], {"network": jf.weights}
    problem = jf.Regression.from_data(x, y)
    path = jf.gradient_flow(problem, network, times, observe=watch, **options)
    first, second = jnp.moveaxis(path.observed["network"].positive, 1, 0)
    np.testing.assert_allclose(first * second, row, rtol=1e-8, atol=1e-8)
    kept = np.broadcast_to(u**2 - v**2, (4, 3))
    np.testing.assert_allclose(first**2 - second**2, kept, rtol=1e-8, atol=1e-8)
    gap = np.linalg.norm(row[-1] - np.linalg.lstsq(x, y)[0][:, 0])
    np.testing.assert_allclose(
        jf.observables.distance(problem, path.network), gap, rtol=1e-7
    )


def test_a_symmetric_map_is_its_factor_twice():
    factor = build((2, 4)).weights[0]
    network, x = jf.networks.SymmetricLinear(factor), jnp.arange(4.0)
    close(network.product, np.asarray(factor) @ np.asarray(factor).T)
    close(network(x), network.product @ x)


def convolutional(stride, image=(2, 5, 4)):
    options = {"scale": 0.4, "activation": jnp.tanh, "stride": stride, "key": jr.key(0)}
    return jf.init.convolutional(image, (3, 2), 3, 2, **options)


def windows(images, kernel, stride):
    """A correlation, from the windows that its kernel sees in turn."""
    pads = [(0, 0)]
    for n, size in zip(images.shape[1:], kernel.shape[2:], strict=True):
        lack = max((-(-n // stride) - 1) * stride + size - n, 0)
        pads.append((lack // 2, lack - lack // 2))
    view = np.lib.stride_tricks.sliding_window_view
    seen = view(np.pad(images, pads), kernel.shape[2:], axis=(1, 2))
    return np.einsum("ihwab,oiab->ohw", seen[:, ::stride, ::stride], kernel)


@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_are_the_sums_over_windows(stride):
    network = convolutional(stride)
    x = np.random.default_rng(1).normal(size=(2, 5, 4))
    h = x
    for kernel in network.kernels:
        h = np.tanh(windows(h, np.asarray(kernel), stride))
    close(
        jax.jit(lambda x: network(x))(jnp.asarray(x.ravel())),
        np.asarray(network.readout) @ h.ravel(),
    )
    assert network.widths == {1: (40, 60, 40, 2), 2: (40, 18, 4, 2)}[stride]
    assert network.depth == 3


def test_convolutions_are_the_correlations_of_scipy():
    network, x = convolutional(1), np.random.default_rng(1).normal(size=(2, 5, 4))
    kernel = np.asarray(network.kernels[0])
    maps = [
        sum(correlate2d(one, k, "same") for one, k in zip(x, ks, strict=True))
        for ks in kernel
    ]
    close(network.layer(0, jnp.asarray(x.ravel())), np.tanh(maps).ravel())


def test_the_jacobians_of_convolutions_multiply_to_that_of_the_network():
    network = convolutional(2)
    x = jnp.asarray(np.random.default_rng(1).normal(size=40))
    layers, whole = jax.jit(lambda x: (network.linearized(x), jax.jacrev(network)(x)))(x)
    close(layers.product, whole)
    assert layers.widths == network.widths


def test_singular_structure_of_convolutions_is_that_of_their_jacobians():
    network, x, problem = convolutional(2), jnp.ones(40), jf.WeightDecay(0.1)
    with pytest.raises(ValueError, match=r"ConvNet.*linearized\(x\)"):
        jf.observables.singular_values(problem, network)
    with pytest.raises(ValueError, match=r"linearized\(x\)"):
        jf.alignment(problem, network)
    gains = jf.observables.gains(problem, network, signal=x)
    sizes = np.linalg.norm(network(x)) / np.linalg.norm(x)
    np.testing.assert_allclose(np.prod(gains), sizes, rtol=1e-12)


ONES = jnp.ones
REFUSED = {
    "no layers": (lambda: jf.networks.DiagonalLinear(ONES((0, 3))), r"positive=.*\(0, 3\)"),
    "other inputs": (
        lambda: jf.networks.DiagonalLinear(U[None], ONES((1, 2))),
        r"negative=.*\(1, 2\), and `positive` \(1, 3\)",
    ),
    "no power": (
        lambda: jf.networks.DiagonalLinear(U[None], power=0),
        "positive, but is 0",
    ),
    "input": (
        lambda: jf.networks.SymmetricLinear(ONES((3, 2)))(ONES(2)),
        r"\(2,\).*\(3,\)",
    ),
    "no kernels": (
        lambda: jf.networks.ConvNet((), ONES((1, 4)), jnp.tanh, (1, 2, 2)),
        "is empty",
    ),
    "channels": (
        lambda: jf.networks.ConvNet(
            (ONES((1, 2, 3, 3)),), ONES((1, 4)), jnp.tanh, (1, 2, 2)
        ),
        r"layer 1 has shape \(1, 2, 3, 3\), where \(channels, 1, height, width\)",
    ),
    "readout": (
        lambda: jf.networks.ConvNet(
            (ONES((2, 1, 3, 3)),), ONES((1, 4)), jnp.tanh, (1, 2, 2)
        ),
        r"8 columns, for features of shape \(2, 2, 2\).*\(1, 4\)",
    ),
    "stride": (
        lambda: jf.networks.ConvNet(
            (ONES((1, 1, 3, 3)),), ONES((1, 4)), jnp.tanh, (1, 2, 2), 0
        ),
        r"stride=...\)` must be positive, but is 0",
    ),
}


@pytest.mark.parametrize(("make", "fact"), REFUSED.values(), ids=REFUSED)
def test_weights_that_make_no_network_are_refused(make, fact):
    with pytest.raises(ValueError, match=fact):
        make()
