"""Stability thresholds: against the optimizers themselves, on both sides."""

import itertools as it

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxflow as jf

CURVES = jnp.array([1.0, 0.3, 4.0])  # Half the Hessian, which is diagonal.
PROBLEM = jf.Regression(jnp.zeros((1, 3)), jnp.diag(CURVES), jnp.zeros(()))
START = jf.DeepLinear((jnp.array([[1.0, 1.0, 1.0]]),))


@pytest.fixture(autouse=True)
def standard_promotion():
    """Optax counts steps in integers and raises numbers to their power."""
    with jax.numpy_dtype_promotion("standard"):
        yield


SGD = [
    ({}, optax.sgd),
    ({"momentum": 0.9}, lambda eta: optax.sgd(eta, 0.9)),
    ({"momentum": 0.9, "nesterov": True}, lambda eta: optax.sgd(eta, 0.9, nesterov=True)),
    ({"momentum": 0.5, "nesterov": True}, lambda eta: optax.sgd(eta, 0.5, nesterov=True)),
]


def growth(optimizer, start, steps=4000):
    """How much farther from the minimum an optimizer ends than it starts."""

    def step(carry, _):
        network, state = carry
        gradient = jax.grad(PROBLEM)(network)
        update, state = optimizer.update(gradient, state, network)
        return (optax.apply_updates(network, update), state), None

    (end, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), length=steps)
    return jnp.linalg.norm(end.weights[0]) / jnp.linalg.norm(start.weights[0])


@pytest.mark.parametrize(("options", "build"), SGD)
def test_descent_diverges_just_above_the_threshold_and_not_below(options, build):
    sharpness = jf.sharpness(PROBLEM, START)
    critical = jf.observables.stability_threshold(1.0, **options) / sharpness
    for factor, diverges in ((0.99, False), (1.01, True)):
        optimizer = build(factor * critical)
        assert (growth(optimizer, START) > 1e3) == diverges
        below = jf.observables.stability_threshold(factor * critical, **options) < sharpness
        assert below == diverges


ADAPTIVE = {
    "adam": ({"momentum": 0.9, "average": True}, optax.adam, {}),
    "nadam": ({"momentum": 0.9, "average": True, "nesterov": True}, optax.nadam, {}),
    "rmsprop": (
        {"momentum": 0.8},
        lambda eta: optax.rmsprop(eta, 0.999, momentum=0.8, eps=1e-3),
        {"eps": 1e-3},
    ),
    "rmsprop, eps outside": (
        {},
        lambda eta: optax.rmsprop(eta, 0.999, eps=0.1, eps_in_sqrt=False),
        {"eps": 0.1, "eps_in_sqrt": False},
    ),
}
MOMENTS = jf.DeepLinear((jnp.array([[0.04, 0.5, 9.0]]),))
has_moments = lambda part: hasattr(part, "nu")


def frozen(optimizer):
    """The same optimizer, late, with second moments that stay as they are."""

    def hold(part):
        if not has_moments(part):
            return part
        late = {"count": jnp.asarray(10**5, jnp.int32)} if hasattr(part, "mu") else {}
        return part._replace(nu=MOMENTS, **late)

    held = lambda state: jax.tree.map(hold, state, is_leaf=has_moments)

    def update(updates, state, params=None):
        updates, state = optimizer.update(updates, state, params)
        return updates, held(state)

    return optax.GradientTransformation(lambda n: held(optimizer.init(n)), update)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_adaptive_optimizers_diverge_just_above_their_threshold(name):
    options, build, given = ADAPTIVE[name]
    # So little gradient that it leaves the moments alone.
    start = jax.tree.map(lambda w: 1e-6 * w, START)
    metric = jf.observables.preconditioner(frozen(build(1.0)).init(start), **given)
    sharpness = jf.sharpness(PROBLEM, start, preconditioner=metric)
    wanted = jnp.max(2 * CURVES / metric.weights[0][0])
    np.testing.assert_allclose(sharpness, wanted, rtol=1e-12)
    critical = jf.observables.stability_threshold(1.0, **options) / sharpness
    for factor, diverges in ((0.99, False), (1.01, True)):
        optimizer = frozen(build(factor * critical))
        assert (growth(optimizer, start, steps=1500) > 10) == diverges


def test_the_preconditioner_is_what_the_update_divides_by():
    """After real steps, of every optimizer that is known."""
    cases = [
        (optax.adam(0.1), {}),
        (optax.adam(0.1, b1=0.5, b2=0.9, eps=0.1, eps_root=0.2),
         {"b1": 0.5, "b2": 0.9, "eps": 0.1, "eps_root": 0.2}),
        (optax.rmsprop(0.1, eps=0.1), {"eps": 0.1}),
        (optax.rmsprop(0.1, 0.8, bias_correction=True), {"b2": 0.8}),
        (optax.adagrad(0.1), {}),
        (optax.chain(optax.clip(99.0), optax.adagrad(0.1, eps=0.5)), {"eps": 0.5}),
    ]  # fmt: skip
    # Of small gradients it is that of rounding, whose default is Optax's.
    for (optimizer, options), size in it.product(cases, (1.0, 1e-6)):
        state = optimizer.init(START)
        for scale in (size, 0.7 * size, 1.3 * size):
            gradient = jax.tree.map(lambda g, s=scale: s * g, jax.grad(PROBLEM)(START))
            update, state = optimizer.update(gradient, state, START)
        metric = jf.observables.preconditioner(state, **options)
        # What an update divides by: momentum, if there is any, is in the state.
        first = next((p.mu for p in state if hasattr(p, "mu")), gradient)
        divided = jax.tree.map(lambda m, p: -0.1 * m / p, first, metric)
        np.testing.assert_allclose(update.weights[0], divided.weights[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("optimizer", "fact"),
    [
        (optax.sgd(0.1), "holds 0 among"),
        (optax.amsgrad(0.1), "ScaleByAmsgradState"),
        (optax.chain(optax.adam(0.1), optax.rmsprop(0.1)), "holds 2 among"),
    ],
)
def test_other_optimizers_are_refused(optimizer, fact):
    with pytest.raises(ValueError, match=fact):
        jf.observables.preconditioner(optimizer.init(START))


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"step_size": 0.0}, "step_size=...\\)` must be positive, but is 0.0"),
        ({"step_size": 1.0, "momentum": 1.0}, "momentum=...\\)` must be at least 0"),
    ],
)
def test_options_are_checked(options, fact):
    with pytest.raises(ValueError, match=fact):
        jf.observables.stability_threshold(**options)
