"""What is computed where it is needed: in a batch, of those members alone."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from jaxflow._batching import where_needed


def work(x, y):
    return {"sum": jnp.sum(x * y), "first": x[0] + y}


def call(needed, x, y=2.0):
    return where_needed(needed, work, x, jnp.asarray(y))


def expected(needed, x, y=2.0):
    full = jax.vmap(work, (0, None))(x, y)
    return jax.tree.map(lambda a: np.where(needed, a, 0), full)


# Fewer and more than a block, none of them, all of them.
@pytest.mark.parametrize("count", [3, 40])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_members_have_their_own(count, share):
    x = jr.normal(jr.key(0), (count, 5))
    needed = jr.uniform(jr.key(1), (count,)) < share
    found = jax.jit(jax.vmap(call))(needed, x)
    jax.tree.map(np.testing.assert_array_equal, found, expected(needed, x))


def test_one_need_is_that_of_all():
    x = jr.normal(jr.key(0), (3, 5))
    for needed in (True, False):
        found = jax.vmap(lambda x, needed=needed: call(jnp.asarray(needed), x))(x)
        jax.tree.map(np.testing.assert_array_equal, found, expected(needed, x))


def test_batches_of_batches_and_what_is_closed_over():
    x, needed = jr.normal(jr.key(0), (4, 5, 6)), jr.bernoulli(jr.key(1), 0.5, (4, 5))
    scales = jnp.arange(4.0)

    def inner(needed, x, scale):
        return where_needed(needed, lambda x: scale * jnp.sum(x), x)

    nested = jax.vmap(jax.vmap(inner, (0, 0, None)))(needed, x, scales)
    wanted = np.where(needed, scales[:, None] * np.sum(x, axis=2), 0)
    np.testing.assert_allclose(nested, wanted, rtol=1e-14)


def test_it_has_no_slopes():
    slope = jax.grad(lambda x: call(jnp.asarray(True), x)["sum"])(jnp.ones(5))
    np.testing.assert_array_equal(slope, 0)
