"""Batches of plain descents: the fast route and the loop over Optax steps agree."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import jaxflow as jf
from jaxflow._fast import descent_lanes as lanes
from jaxflow.dynamics.classify import classify_end

KEYS = jr.split(jr.key(3), 5)


def sgd(step_size):
    """Plain descent that the library does not recognize."""
    return optax.sgd(step_size)


def problems():
    """Losses of all kinds with a kernel, and networks that fit them."""
    kx, ky, kp = jr.split(jr.key(1), 3)
    x, y = jr.normal(kx, (12, 3)), jr.normal(ky, (12, 2))
    readout = jr.normal(kp, (1, 4))
    draw = lambda *widths: lambda key: jf.init.gaussian(widths, scale=0.5, key=key)
    curved = lambda key: jf.MLP(draw(3, 4, 4, 2)(key).weights, jax.nn.gelu)
    many = jnp.tile(x, (6, 1)), jnp.tile(y[:, :1], (6, 1))
    return {
        "one output": (jf.Regression.from_data(x, y[:, :1]), draw(3, 4, 2, 1)),
        "two outputs": (jf.Regression.from_data(x, y), draw(3, 2)),
        "readout": (jf.Regression.from_data(x, y[:, :1], readout=readout), draw(3, 4, 4)),
        "wide": (jf.Regression.from_data(x, y[:, :1]), draw(3, 40, 1)),
        "samples": (jf.MeanSquaredError(x, y), curved),
        "many samples": (
            jf.MeanSquaredError(*many, readout=readout),
            lambda key: jf.MLP(draw(3, 4, 4)(key).weights, jnp.tanh),
        ),
    }


@pytest.fixture(autouse=True)
def one_lane_is_enough(monkeypatch):
    """Blocks of 16 lanes, pieces of 8 steps: every path is taken by small batches."""
    monkeypatch.setattr(lanes, "CACHE", 0)
    monkeypatch.setattr(lanes, "PIECE", 8)
    monkeypatch.setattr(lanes, "VECTOR", 2)


def descend(loss, draw, optimizer, steps=30, every=(1, 9, 30)):
    @eqx.filter_jit
    def run(key, step_size, loss=loss):
        options = {"every": every, "optimizer": optimizer, "observe": {"w": jf.weights}}
        return jf.gradient_descent(loss, draw(key), steps, step_size=step_size, **options)

    return run


def assert_same(one, other):
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    for a, b in leaves:
        finite = np.isfinite(np.asarray(b, float))
        assert np.array_equal(np.isfinite(np.asarray(a, float)), finite)
        np.testing.assert_allclose(
            np.where(finite, a, 0), np.where(finite, b, 0), rtol=1e-10, atol=1e-12
        )


@pytest.mark.parametrize("name", problems())
def test_a_batch_is_its_members(name):
    loss, draw = problems()[name]
    assert lanes.find(loss, draw(KEYS[0])) is not None
    steps = jnp.array([0.01, 0.02, 0.03, 0.04, 0.05])
    batch = eqx.filter_vmap(descend(loss, draw, optax.sgd))(KEYS, steps)
    assert_same(batch, eqx.filter_vmap(descend(loss, draw, sgd))(KEYS, steps))


def test_members_that_diverge_leave_their_lanes_and_the_others_alone():
    loss, draw = problems()["one output"]
    keys = jr.split(jr.key(0), 11)
    steps = jnp.where(jnp.arange(11) % 3 > 0, 1e4, 0.03)
    batch = eqx.filter_vmap(descend(loss, draw, optax.sgd))(keys, steps)
    assert_same(batch, eqx.filter_vmap(descend(loss, draw, sgd))(keys, steps))
    assert (batch.status == jf.Status.DIVERGED).sum() == 7


def test_nested_batches_and_batches_of_losses_are_one_batch():
    x = jr.normal(jr.key(5), (12, 3))
    losses = jax.vmap(jf.Regression.from_data, (None, 0))(x, jr.normal(jr.key(6), (2, 12)))
    _, draw = problems()["one output"]
    steps = jnp.array([0.01, 0.03])

    def both(optimizer):
        run = descend(None, draw, optimizer)
        over = eqx.filter_vmap(run, in_axes=(0, None, None))
        over = eqx.filter_vmap(over, in_axes=(None, 0, None))
        return eqx.filter_vmap(over, in_axes=(None, None, 0))(KEYS, steps, losses)

    assert both(optax.sgd).network.weights[0].shape == (2, 2, 5, 4, 3)
    assert_same(both(optax.sgd), both(sgd))


@pytest.mark.parametrize("derivative", [jax.jacfwd, jax.jacrev])
def test_derivatives_are_those_of_the_loop(derivative):
    loss, draw = problems()["one output"]

    def slopes(optimizer):
        run = descend(loss, draw, optimizer, steps=8, every=4)
        end = lambda size, key: run(key, size).network.product
        return jax.vmap(derivative(end), (None, 0))(0.03, KEYS)

    np.testing.assert_allclose(slopes(optax.sgd), slopes(sgd), rtol=1e-10)


def test_results_do_not_depend_on_the_neighbors():
    loss, draw = problems()["one output"]
    run = eqx.filter_vmap(descend(loss, draw, optax.sgd))
    keys, steps = jr.split(jr.key(0), 11), jnp.linspace(0.01, 0.05, 11)
    pair = slice(3, 5)
    few, many = run(keys[pair], steps[pair]).network, run(keys, steps).network
    for a, b in zip(few.weights, many.weights, strict=True):
        assert np.array_equal(a, b[pair])


@pytest.mark.parametrize(
    ("loss", "network"),
    [
        ("samples", lambda: jf.init.gaussian((3, 4, 2), scale=0.1, key=KEYS[0])),
        ("one output", lambda: (jnp.ones((1, 3)),)),
    ],
)
def test_what_has_no_kernel_takes_the_plain_route(loss, network):
    assert lanes.find(problems()[loss][0], network()) is None


def test_a_key_that_nobody_needs_is_refused():
    loss, draw = problems()["one output"]
    options = {"step_size": 0.03, "every": 8, "key": KEYS[0]}
    with pytest.raises(ValueError, match="needs something random"):
        jf.gradient_descent(loss, draw(KEYS[0]), 8, **options)


def test_a_batch_over_the_tolerance_alone_is_judged_by_each():
    loss, draw = problems()["one output"]
    start, tolerances = draw(KEYS[0]), jnp.array([1e-8, 1e-1, 10.0])
    verdict = lambda tolerance: classify_end(loss, start, start, tolerance)[0]
    batch = jax.vmap(verdict)(tolerances)
    assert batch.tolist() == [int(verdict(tolerance)) for tolerance in tolerances]
    assert len(set(batch.tolist())) > 1
