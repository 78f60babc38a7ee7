"""Transformations of gradients, for the `optimizer` of `gradient_descent`."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, PRNGKeyArray, ScalarLike

from .. import _checks
from .._linalg.norms import norm


def fixed_row_norms() -> optax.GradientTransformation:
    """Scale every row of weights back to the norm that it has, after the step.

    The last of a chain: `optax.chain(optax.sgd(0.1), fixed_row_norms())`. Rows that are
    zero, or become so, are left alone.
    """

    def update(updates, state, params=None):
        if params is None:
            raise ValueError(
                "`fixed_row_norms` needs the weights, as `update(..., params)`."
            )
        return jax.tree.map(_back, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _back(update, weights):
    moved = weights + update
    old, new = (norm(w, axis=-1, keepdims=True) for w in (weights, moved))
    some = (old > 0) & (new > 0)
    return moved * jnp.where(some, old / jnp.where(some, new, 1), 1) - weights


class _Langevin(NamedTuple):
    key: PRNGKeyArray
    scope: Array


def entropy_sgd(
    step_size: ScalarLike,
    *,
    scope: ScalarLike,
    growth: ScalarLike = 0.0,
    inner_steps: int = 20,
    inner_step_size: ScalarLike,
    noise: ScalarLike = 1e-4,
    memory: ScalarLike = 0.75,
    key: PRNGKeyArray,
) -> optax.GradientTransformationExtraArgs:
    r"""Entropy-SGD (Chaudhari et al., 2017): descend on minus a local entropy.

    The gradient of $-\log \int e^{-\mathcal{L}(\theta') - \frac{\gamma}{2}
    \|\theta - \theta'\|^2} d\theta'$ is $\gamma (\theta - \langle \theta' \rangle)$, and
    the mean is estimated along a Langevin path from $\theta$, on the step's mini-batch.

    Args:
        step_size: The outer step size $\eta$, of steps
            $-\eta \gamma (\theta - \langle \theta' \rangle)$.
        scope: $\gamma$ at the start.
        growth: By which share it grows at every step.
        inner_steps: Steps of the Langevin path.
        inner_step_size: Their size.
        noise: Standard deviation of their noise, over the root of the inner step size.
        memory: The weight of the past in the running mean.
        key: Randomness of the path.

    Raises:
        ValueError: If a size, the scope or the number of steps is not positive, the scope
            does not stay so, or the noise or the memory is out of range.
    """
    for name, given, fact, holds in (
        ("step_size", step_size, "positive", _checks.POSITIVE.holds),
        ("scope", scope, "positive", _checks.POSITIVE.holds),
        ("growth", growth, "above -1", lambda x: (x > -1) & np.isfinite(x)),
        (
            "inner_step_size",
            inner_step_size,
            "positive",
            lambda x: (x > 0) & np.isfinite(x),
        ),
        ("noise", noise, "at least 0", _checks.NOT_NEGATIVE.holds),
        ("memory", memory, "at least 0 and less than 1", lambda x: (x >= 0) & (x < 1)),
    ):
        must = _checks.Must(f"be {fact}", holds)
        _checks.real(f"entropy_sgd({name}=...)", given, must)
    inner_steps = _checks.whole("entropy_sgd(inner_steps=...)", inner_steps)
    _checks.key("entropy_sgd(key=...)", key)

    def init(params):
        return _Langevin(key, jnp.asarray(scope, jax.tree.leaves(params)[0].dtype))

    def update(updates, state, params=None, **extra):
        del updates
        value_fn: Any = extra["value_fn"]
        weights: Any = params
        carried, fresh = jr.split(state.key)
        slope = jax.grad(value_fn)

        def walk(carry, key):
            place, mean = carry
            pull = jax.tree.map(lambda p, c: state.scope * (p - c), place, weights)
            kicks = optax.tree_utils.tree_random_like(key, weights, jr.normal)
            size = jnp.asarray(inner_step_size, state.scope.dtype)
            spread = jnp.sqrt(size) * jnp.asarray(noise, size.dtype)
            move = lambda p, g, f, z: p - size * (g + f) + spread * z
            place = jax.tree.map(move, place, slope(place), pull, kicks)
            keep = jnp.asarray(memory, size.dtype)
            mean = jax.tree.map(lambda m, p: keep * m + (1 - keep) * p, mean, place)
            return (place, mean), None

        keys = jr.split(fresh, inner_steps)
        (_, mean), _ = jax.lax.scan(walk, (weights, weights), keys)
        rate = jnp.asarray(step_size, state.scope.dtype) * state.scope
        steps = jax.tree.map(lambda m, p: rate * (m - p), mean, weights)
        grown = state.scope * (1 + jnp.asarray(growth, state.scope.dtype))
        return steps, _Langevin(carried, grown)

    return optax.GradientTransformationExtraArgs(init, update)
