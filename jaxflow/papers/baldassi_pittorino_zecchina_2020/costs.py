r"""What fields cost weights, and how far the cost pulls them or tilts their distribution.

A cost is a function of fields that falls, with the logarithm of minus its slope as
`log_slope`.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import log_sigmoid, logsumexp
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Scalar

from . import saddles


class CrossEntropy(eqx.Module):
    r"""$f_\gamma(s \lambda)$, of a field times the scale of the device."""

    strength: Scalar
    scale: Scalar

    def __call__(self, field):
        x = 2 * self.strength * self.scale * field
        return -log_sigmoid(x) / (2 * self.strength)

    def log_slope(self, field):
        """The logarithm of minus its slope, which does not underflow."""
        x = 2 * self.strength * self.scale * field
        return jnp.log(self.scale) + log_sigmoid(-x)


class Probit(eqx.Module):
    r"""$-\ln H(-\lambda / w)$, what a field costs weights around."""

    width: Scalar

    def __call__(self, field):
        return -log_ndtr(field / self.width)

    def log_slope(self, field):
        x = field / self.width
        density = -(x**2) / 2 - np.log(2 * np.pi) / 2
        return density - log_ndtr(x) - jnp.log(self.width)


def log_stiffness(
    loss, load, total, *, spread: Array | float = 1.0, width: Array | float = 0.0
):
    r"""Where $\alpha \int Dz\, e^2 (1 + w/\chi)^2$ is `total` for the pull $e$.

    It is `nan` where there is no such, or twice as many nodes say otherwise.
    """

    def excess(log_stiffness, finer=1):
        nodes, density = saddles.normal(finer * 800 + 1)
        moved = pull(loss, spread * nodes, log_stiffness)
        scaled = moved * (1 + width * jnp.exp(-log_stiffness))
        return load * density @ scaled**2 - total

    found = saddles.bisect(excess, -20.0, 1e8, 80)
    return saddles.only(jnp.abs(excess(found, 2)) < 1e-6 * total, found)


def pull(loss, field, log_stiffness):
    r"""The $e > 0$ at which $e = -\chi f'(z + e)$, where the field is pulled from $z$."""
    short = lambda e: jnp.log(e) - log_stiffness - loss.log_slope(field + e)
    found = saddles.bisect(short, jnp.zeros_like(field), jnp.full_like(field, 60.0))
    # To which a bisection would say the end of its bracket.
    return saddles.only(~jnp.isnan(log_stiffness), found)


# Nodes of a quadrature, in each of its two panels.
NODES = 48


def tilted(loss, mean, variance, strength, count=NODES):
    r"""Normal fields of weights $e^{-\beta f}$: points, and logarithms of their measure.

    The exponent is curved at least as that of the normal variable everywhere, so points
    are about its top. It changes around there, and around the edge where $\beta f = 1$,
    below which weights vanish, or at zero, where the cost bends. These may be apart by
    orders of magnitude more than they are wide: each has a panel of Gauss and Legendre, as
    dense there as it is narrow and as sparse as that is far away. If they are close, the
    narrower has both.
    """
    fixed = jax.lax.stop_gradient
    center, spread = fixed(mean), fixed(jnp.sqrt(variance))
    log_strength = fixed(jnp.log(strength))
    log_stiffness = log_strength + 2 * jnp.log(spread)
    top = center + pull(loss, center, log_stiffness)
    steep, change = jax.value_and_grad(loss.log_slope)(top)
    narrow = spread / jnp.sqrt(1 - jnp.exp(log_stiffness + steep) * change)
    low, high = top - 8.5 * spread, top + 8.5 * spread
    edge = saddles.bisect(lambda x: -jnp.log(loss(x)) - log_strength, 0.0, 100.0)
    width = loss(edge) / jnp.exp(loss.log_slope(edge))
    there = jnp.abs(edge - top) < 8.4 * spread
    width = jnp.where(there, width, narrow)
    edge = jnp.where(there, edge, top)
    apart = jnp.abs(top - edge) > narrow + width
    finer = width < narrow
    # The panels from the left: where they are dense, how wide that is, where they end.
    swap = jnp.where(apart, edge < top, False)
    alone = jnp.where(finer, edge, top), jnp.minimum(width, narrow)
    place, wide = (
        jnp.where(apart, jnp.stack([jnp.where(swap, e, t), jnp.where(swap, t, e)]), one)
        for t, e, one in ((top, edge, alone[0]), (narrow, width, alone[1]))
    )
    middle = jnp.where(apart, (top + edge) / 2, alone[0])
    ends = jnp.stack([low, middle, high])
    begin, end = (jnp.arcsinh((e - place) / wide) for e in (ends[:-1], ends[1:]))
    nodes, weights = (jnp.asarray(x) for x in np.polynomial.legendre.leggauss(count))
    steps = begin[:, None] + (end - begin)[:, None] * (1 + nodes)[None] / 2
    fields = fixed(place[:, None] + wide[:, None] * jnp.sinh(steps)).ravel()
    lengths = (wide * (end - begin) / 2)[:, None] * jnp.cosh(steps) * weights[None]
    normal = -((fields - mean) ** 2) / (2 * variance) - jnp.log(2 * np.pi * variance) / 2
    return fields, jnp.log(fixed(lengths)).ravel() + normal - strength * loss(fields)


def log_partition(loss, mean, variance, strength, count=NODES):
    r"""The logarithm of the mean of $e^{-\beta f}$ over normal fields."""
    return logsumexp(tilted(loss, mean, variance, strength, count)[1])
