"""Losses made of losses."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import jaxflow as jf
from jaxflow.losses.transforms import normalize

LOSS = jf.committee.random_patterns(20, 12, key=jr.key(0))
NETWORK = jf.init.committee(3, 12, key=jr.key(1))
GROWING = optax.exponential_decay(0.5, 1, 1.1)


def test_descent_follows_the_schedules_of_a_loss():
    annealed = jf.losses.Scheduled(LOSS, robustness=GROWING, gain=GROWING)
    both = 0.5 * annealed + jf.losses.Scheduled(jf.WeightDecay(0.1), strength=GROWING)
    run = jf.gradient_descent(both, NETWORK, 5, step_size=0.3)
    network = NETWORK
    for k in range(5):
        now = GROWING(k)
        data = jf.committee.Classification(LOSS.x, LOSS.y, robustness=now, gain=now)
        slope = jax.grad(0.5 * data + jf.WeightDecay(now))(network)
        network = jax.tree.map(lambda w, g: w - 0.3 * g, network, slope)
    np.testing.assert_allclose(run.network.weights, network.weights, rtol=1e-12)


def test_everyone_else_sees_an_annealed_loss_as_it_was_given():
    annealed = jf.losses.Scheduled(LOSS, robustness=GROWING)
    assert float(annealed(NETWORK)) == float(LOSS(NETWORK))
    assert float(jf.committee.error_rate(annealed, NETWORK)) == float(LOSS.errors(NETWORK))


def test_normalized_losses_do_not_depend_on_the_scale_of_rows():
    loss = jf.losses.Normalized(LOSS)
    scaled = jax.tree.map(lambda w: w * jnp.array([[0.1], [3.0], [7.0]]), NETWORK)
    np.testing.assert_allclose(loss(scaled), LOSS(NETWORK), rtol=1e-12)
    slope = jax.grad(loss)(scaled)
    along = jnp.sum(slope.weights * scaled.weights, axis=1)
    np.testing.assert_allclose(along, 0, atol=1e-14)
    zero = jax.tree.map(jnp.zeros_like, NETWORK)
    assert np.isfinite(jax.grad(loss)(zero).weights).all()
    np.testing.assert_allclose(normalize(scaled).weights, NETWORK.weights, rtol=1e-12)


def test_replicas_feel_their_own_loss_and_their_mean():
    keys = jr.split(jr.key(2), 4)
    stack = jax.vmap(lambda key: jf.init.committee(3, 12, key=key))(keys)
    loss = jf.losses.Replicated(LOSS, 0.7)
    slope = jax.grad(loss)(stack).weights
    own = jax.vmap(jax.grad(LOSS))(stack).weights
    pull = 0.7 * (stack.weights - stack.weights.mean(0)[None])
    np.testing.assert_allclose(slope, own + pull, rtol=1e-10, atol=1e-14)
    middle = jf.losses.replica_mean(stack)
    assert float(jf.committee.error_rate(loss, stack)) == float(LOSS.errors(middle))
    assert float(jf.losses.Replicated(LOSS, 0.0)(stack)) == pytest.approx(
        sum(float(LOSS(jax.tree.map(lambda w, k=k: w[k], stack))) for k in range(4))
    )


def test_replicated_and_annealed_nest_and_take_mini_batches():
    keys = jr.split(jr.key(2), 3)
    stack = jax.vmap(lambda key: jf.init.committee(3, 12, key=key))(keys)
    inner = jf.losses.Scheduled(LOSS, robustness=GROWING)
    slowly = optax.exponential_decay(0.5, 100, 1.1)  # To .73, so that steps are stable.
    loss = jf.losses.Scheduled(jf.losses.Replicated(inner, 0.1), coupling=slowly)
    optimizer = optax.chain(optax.sgd(0.4), jf.committee.fixed_row_norms())
    options = {"optimizer": optimizer, "batch_size": 5, "key": jr.key(3), "every": 200}
    run = jf.gradient_descent(loss, stack, 400, **options)
    norms = np.sum(np.asarray(run.network.weights) ** 2, axis=-1)
    np.testing.assert_allclose(norms, 4, rtol=1e-10)
    spread = np.std(run.network.weights, axis=0).max()
    assert spread < 1e-3


@pytest.mark.parametrize(
    ("build", "fact"),
    [
        (
            lambda: jf.losses.Scheduled(LOSS, gane=GROWING),
            "`Scheduled\\(gane=...\\)` must name",
        ),
        (lambda: jf.losses.Replicated(LOSS, -1.0), "must not be negative"),
        (
            lambda: jf.committee.error_rate(jf.WeightDecay(1.0), NETWORK),
            "counted of a `Classif",
        ),
    ],
)
def test_other_requests_are_refused(build, fact):
    with pytest.raises(ValueError, match=fact):
        build()
