"""Networks and losses that know nothing of this library."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import jaxflow as jf
from jaxflow import _adapters as modules


@pytest.fixture(scope="module")
def data():
    x = jr.normal(jr.key(0), (20, 3))
    return x, jnp.sin(jnp.sum(x, axis=1, keepdims=True))


@pytest.fixture(scope="module")
def module():
    """A module with activation functions among its leaves."""
    return eqx.nn.MLP(3, 1, 4, 1, activation=jnp.tanh, key=jr.key(1))


def error(x, y, network):
    return jnp.sum((jax.vmap(network)(x) - y) ** 2) / len(x)


def first_weight(loss, network):
    """Sees what the user gave, not what the library made of it."""
    assert isinstance(network, eqx.nn.MLP)
    assert network.activation is not None
    return network.layers[0].weight[0, 0]


class TestModules:
    def test_function_and_loss_agree(self, data, module):
        own, ours = eqx.Partial(error, *data), jf.MeanSquaredError(*data)
        watch = {"loss": jf.loss_value, "own": first_weight, "weights": jf.weights}
        runs = [
            jf.gradient_descent(loss, module, 20, step_size=0.05, every=10, observe=watch)
            for loss in (own, ours)
        ]
        for run in runs:
            assert isinstance(run.network, eqx.nn.MLP)
            np.testing.assert_allclose(
                run.observed["own"], run.observed["weights"].layers[0].weight[:, 0, 0]
            )
            np.testing.assert_allclose(
                jf.loss_value(own, run.network), run.observed["loss"][-1]
            )
        np.testing.assert_allclose(*(run.observed["loss"] for run in runs))
        np.testing.assert_allclose(jf.sharpness(own, module), jf.sharpness(ours, module))
        parts = [jf.spectrum(ours, module, part="gauss_newton").values for _ in range(2)]
        np.testing.assert_allclose(*parts)

    def test_descent_is_that_of_a_plain_loop(self, data, module):
        loss = eqx.Partial(error, *data)
        run = jf.gradient_descent(loss, module, 20, step_size=0.05, every=20)
        step = eqx.filter_jit(eqx.filter_grad(loss))
        network = module
        for _ in range(20):
            moves = jax.tree.map(lambda g: -0.05 * g, step(network))
            network = eqx.apply_updates(network, moves)
        for ours, theirs in zip(
            jax.tree.leaves(eqx.filter(run.network, eqx.is_array)),
            jax.tree.leaves(eqx.filter(network, eqx.is_array)),
            strict=True,
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12)

    def test_hessian_is_that_of_weights(self, data, module):
        loss = eqx.Partial(error, *data)
        operator = jf.hessian(loss, module)
        values = np.linalg.eigvalsh(operator.as_matrix())
        np.testing.assert_allclose(jf.sharpness(loss, module), values[-1], rtol=1e-9)
        weights = eqx.filter(module, eqx.is_inexact_array)
        moved = jax.tree.leaves(operator.mv(weights))
        assert sum(leaf.size for leaf in moved) == len(values)

    def test_batches_and_slopes(self, data):
        loss = eqx.Partial(error, *data)

        def end(key, step_size):
            module = eqx.nn.MLP(3, 1, 4, 1, activation=jnp.tanh, key=key)
            run = jf.gradient_descent(loss, module, 20, step_size=step_size, every=20)
            return run.observed["loss"][-1]

        keys = jr.split(jr.key(2), 3)
        ends = eqx.filter_vmap(end, in_axes=(0, None))(keys, jnp.asarray(0.05))
        np.testing.assert_allclose(ends[1], end(keys[1], jnp.asarray(0.05)))
        slope = jax.grad(end, 1)(keys[0], jnp.asarray(0.05))
        numeric = (end(keys[0], 0.05001) - end(keys[0], 0.04999)) / 2e-5
        np.testing.assert_allclose(slope, numeric, rtol=1e-5)

    def test_functions_add_to_losses(self, data, module):
        penalized = jf.losses.FunctionLoss(eqx.Partial(error, *data)) + jf.WeightDecay(0.1)
        weights = jax.tree.leaves(eqx.filter(module, eqx.is_array))
        wanted = error(*data, module) + 0.1 * sum(jnp.sum(w**2) for w in weights)
        np.testing.assert_allclose(jf.loss_value(penalized, module), wanted)

    def test_trees_are_networks(self):
        """Of a parabola, whose flow is known."""
        parabola = lambda tree: jnp.sum(jnp.array([1.0, 2.0]) * tree["w"] ** 2)
        run = jf.gradient_flow(parabola, {"w": jnp.ones(2)}, (0.0, 1.0))
        np.testing.assert_allclose(run.network["w"], np.exp([-2.0, -4.0]), rtol=1e-7)


class TestWhatCannotBe:
    @pytest.mark.parametrize(
        "enter",
        [
            lambda loss, network: jf.gradient_flow(loss, network, (0.0, 1.0)),
            lambda loss, network: jf.gradient_descent(loss, network, 1, step_size=0.1),
            lambda loss, network: jf.central_flow(loss, network, 1, step_size=0.1),
            jf.sharpness,
            jf.observables.spectral_density,
            jf.observables.excess_loss,
        ],
    )
    def test_is_said_before_compiling(self, enter, data, module):
        x, y = data
        with pytest.raises(ValueError, match="no arrays"):
            enter(lambda network: jnp.zeros(()), jnp.tanh)
        with pytest.raises(TypeError, match="int64"):
            enter(lambda tree: jnp.zeros(()), {"w": jnp.ones(2), "n": jnp.arange(2)})
        with pytest.raises(ValueError, match=r"shape \(20, 1\).*Take a mean"):
            enter(lambda network: jax.vmap(network)(x), module)
        with pytest.raises(ValueError, match="int64"):
            enter(lambda network: jnp.sum(jnp.arange(3)), module)
        with pytest.raises((ValueError, TypeError)):  # By type, in tests.
            enter(3, module)
        single = jf.MeanSquaredError(x.astype(jnp.float32), y.astype(jnp.float32))
        with pytest.raises(ValueError, match="one precision"):
            enter(single, module)
        closed = lambda network: error(x, y, network)
        arrays, rest = eqx.partition(module, eqx.is_array)
        lighter = jax.tree.map(lambda w: w.astype(jnp.float32), arrays)
        lighter = eqx.combine(lighter, rest)
        with (
            jax.numpy_dtype_promotion("standard"),
            pytest.raises(ValueError, match="the loss returns float64"),
        ):
            enter(closed, lighter)

    def test_what_is_no_function_is_named(self, module):
        with pytest.raises(TypeError, match="a scalar function of a network, but is 3"):
            modules.partition_module("sharpness", 3, module)
