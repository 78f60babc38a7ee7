"""What saddle points of replica theory take: means over normal variables, and roots."""

import functools as ft
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Scalar

from ..._linalg import decompositions

# Of what is stationary, in units of order one.
TOLERANCE = 1e-9
# Of Newton's method, from each start.
STEPS = 25


# A value changes by less, of its size or of one, if there are twice as many nodes.
RESOLUTION = 1e-7


def mean(function: Callable[[Scalar], Scalar], nodes_and_weights) -> Scalar:
    """Of a function of a variable, by a quadrature."""
    nodes, weights = nodes_and_weights
    return weights @ jax.vmap(function)(nodes)


def resolved(value, fine) -> Array:
    """Whether a quadrature of twice as many nodes says the same."""
    return jnp.abs(value - fine) < RESOLUTION * jnp.maximum(1, jnp.abs(fine))


def around(center, steepness, count):
    """Points and weights of a normal variable, for functions that are steep somewhere."""
    fixed = jax.lax.stop_gradient
    center = fixed(jnp.clip(center, -8.5, 8.5))
    narrow = fixed(1 / jnp.sqrt(1 + steepness**2))
    low, high = (jnp.arcsinh((end - center) / narrow) for end in (-8.5, 8.5))
    steps = low + (high - low) * jnp.linspace(0.0, 1.0, count)
    nodes = center + narrow * jnp.sinh(steps)
    weights = jnp.cosh(steps) * jnp.exp(-(nodes**2) / 2)
    return nodes, weights / jnp.sum(weights)


def normal(count):
    """Points and weights of a normal variable, evenly spaced."""
    nodes = np.linspace(-8.5, 8.5, count)
    weights = np.exp(-(nodes**2) / 2)
    return jnp.asarray(nodes), jnp.asarray(weights / weights.sum())


def bisect(rising: Callable[[Array], Array], low, high, count: int = 60) -> Array:
    """Where a function passes zero upwards."""

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        above = rising(middle) > 0
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    low, high = jax.lax.fori_loop(0, count, halve, (jnp.asarray(low), jnp.asarray(high)))
    return (low + high) / 2


def root(function, starts, low: Array | float = -np.inf, high: Array | float = np.inf):
    """Where a vector function is zero in a box, and what is left of it.

    By damped Newton steps, none of which goes more than nine tenths of the way out, from
    one start after the other.
    """
    look = jax.jacfwd(lambda x: (function(x),) * 2, has_aux=True)
    unseen = jnp.eye(starts.shape[1]), jnp.full_like(starts[0], jnp.inf)
    size = lambda values: jnp.max(jnp.abs(values))

    def step(state):
        count, trial, point, seen, damping = state
        new = look(trial)
        better = jnp.sum(new[1] ** 2) < jnp.sum(seen[1] ** 2)
        point, seen = _choose(better, (trial, new), (point, seen))
        damping *= jnp.where(better, 0.1, 10)
        square = seen[0].T @ seen[0]
        ridge = damping * jnp.diag(jnp.diag(square))
        trial = point - decompositions.solve(square + ridge, seen[0].T @ seen[1])
        trial = jnp.clip(trial, point + 0.9 * (low - point), point + 0.9 * (high - point))
        last = ((count + 1) % STEPS == 0) & ~(size(seen[1]) < TOLERANCE)
        fresh = starts[(count + 1) // STEPS], point, unseen, jnp.asarray(1e-2)
        return count + 1, *_choose(last, fresh, (trial, point, seen, damping))

    def busy(state):
        count, _, _, (_, values), _ = state
        return (count < STEPS * len(starts)) & (size(values) > 1e-13)

    state = 0, starts[0], starts[0], unseen, jnp.asarray(1e-2)
    _, _, point, (_, values), _ = jax.lax.while_loop(busy, step, state)
    return point, size(values)


def _choose(condition, one, other):
    return jax.tree.map(ft.partial(jnp.where, condition), one, other)


def only(condition, found):
    """What is there, and `nan` where nothing is."""
    return jax.tree.map(lambda x: jnp.where(condition, x, jnp.nan), found)


def log_2_cosh(x):
    r"""$\ln 2 \cosh x$, which does not overflow."""
    return jnp.logaddexp(x, -x)
