"""How descent oscillates, on a parabola where all is known, and a network."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf

CURVES = jnp.array([20.0, 1.0])


def parabola(w):
    return jnp.sum(CURVES * w**2) / 2


def valley(n):
    """Sharpness is `s`, which the flow raises at rate 0.01; swings of 0.02 stop it."""
    return n["s"] * n["x"] ** 2 / 2 + n["y"] ** 2 - 0.01 * n["s"]


def test_a_cycle_of_two():
    w = jnp.array([0.3, 0.0])
    options = {"step_size": 0.1}
    np.testing.assert_allclose(
        jf.observables.oscillation_variance(parabola, w, **options), 0.09
    )
    np.testing.assert_allclose(jf.observables.step_cosine(parabola, w, **options), -1)
    along = jf.observables.oscillation_variance(parabola, w, directions=2, **options)
    np.testing.assert_allclose(along, [0.09, 0.0], atol=1e-12)
    center = jf.observables.time_averaged(jf.weights, **options)(parabola, w)
    np.testing.assert_allclose(center, 0, atol=1e-12)


def test_a_straight_descent():
    """Of rate 0.1 a step: the center is on the way, a little off the curve."""
    w = jnp.array([0.0, 1.0])
    np.testing.assert_allclose(jf.observables.step_cosine(parabola, w, step_size=0.1), 1)
    away = 0.9 - (1 + 2 * 0.9 + 0.81) / 4
    swing = jf.observables.oscillation_variance(parabola, w, step_size=0.1)
    np.testing.assert_allclose(swing, away**2, rtol=1e-9)
    assert jf.observables.step_cosine(parabola, jnp.zeros(2), step_size=0.1) == 0


def test_what_would_hold_the_sharpness():
    n = {"x": jnp.zeros(()), "y": jnp.zeros(()), "s": jnp.asarray(19.0)}
    np.testing.assert_allclose(jf.observables.sharpening_rate(valley, n), 0.01, rtol=1e-6)
    np.testing.assert_allclose(
        jf.observables.predicted_oscillation_variance(valley, n), 0.02, rtol=1e-6
    )
    falling = lambda n: valley(n) + 0.02 * n["s"]
    assert jf.observables.predicted_oscillation_variance(falling, n) == 0


def test_sharpening_is_the_slope_of_the_sharpness(problem, network):
    watch = {"sharpness": jf.sharpness, "sharpening": jf.observables.sharpening_rate}
    run = jf.gradient_flow(problem, network, (0.0, 1e-4, 2e-4), observe=watch)
    before, middle, after = run.observed["sharpness"]
    slope = (after - before) / 2e-4
    np.testing.assert_allclose(run.observed["sharpening"][1], slope, rtol=1e-5)
    assert before != middle


def test_limit_of_the_flow(problem, network):
    """The same from anywhere on it, and in a batch."""
    watch = {"limit": jf.dynamics.at_flow_limit(jf.sharpness)}
    run = jf.gradient_flow(problem, network, (0.0, 0.5), observe=watch)
    end = jf.gradient_flow(problem, network, (0.0, jnp.inf)).network
    np.testing.assert_allclose(run.observed["limit"], jf.sharpness(problem, end), rtol=1e-4)


def test_of_modules():
    module = eqx.nn.MLP(2, "scalar", 3, 1, activation=jnp.tanh, key=jax.random.key(0))
    loss = lambda module: jnp.mean(jax.vmap(module)(jnp.eye(2)) ** 2)
    seen = []

    def watch(loss, network):
        seen.append(type(network))
        return jf.loss_value(loss, network)

    jf.observables.time_averaged(watch, step_size=0.1)(loss, module)
    assert seen == [eqx.nn.MLP]


@pytest.mark.parametrize(
    "loss", [valley, jf.Regression.from_data(np.eye(3), np.ones((3, 1)))]
)
def test_eigenvalues_have_no_second_slope(loss):
    """An error, and not that of a frozen eigenvector; the first one is as it was."""
    network = {"x": jnp.zeros(()), "y": jnp.zeros(()), "s": jnp.asarray(19.0)}
    if loss is not valley:
        network = jf.init.gaussian((3, 3, 1), scale=0.5, key=jax.random.key(0))
    sharp = lambda n: jf.sharpness(loss, n)
    for bend in (
        jax.hessian(sharp),
        jax.grad(lambda n: jf.observables.sharpening_rate(loss, n)),
        jax.jit(jax.grad(lambda n: jf.observables.predicted_oscillation_variance(loss, n))),
        lambda n: jax.jvp(jax.grad(sharp), (n,), (n,)),
    ):
        with pytest.raises(NotImplementedError, match="have no second derivative"):
            bend(network)
    still = lambda n: (
        jf.observables.sharpening_rate(loss, jax.lax.stop_gradient(n)) + sharp(n)
    )
    for one, other in zip(
        *(jax.tree.leaves(jax.grad(f)(network)) for f in (still, sharp)), strict=True
    ):
        np.testing.assert_allclose(one, other)


def test_sharpness_is_a_penalty(problem, network):
    """Of which nobody knows what remains: all of it, so."""
    flat = problem + 0.1 * jf.losses.FunctionLoss(eqx.Partial(jf.sharpness, problem))
    run = jf.gradient_descent(flat, network, 5, step_size=0.01, every=5)
    assert run.ok
    assert np.diff(run.observed["loss"]) < 0
    np.testing.assert_allclose(run.predicted_decrease, flat.excess(run.network))
