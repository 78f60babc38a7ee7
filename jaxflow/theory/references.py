r"""Weights as a reference, their fields, and the entropy of solutions at a distance.

What is around a reference is the entropy, what it is without patterns, $p$ and $t$ as in
`LocalEntropy`, and by how much these are not stationary.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Float, Scalar

from . import costs, saddles
from .overlap_kernels import AbstractKernel


class Fields(eqx.Module):
    """Fields of a reference: what replicas share, what is its own, and their weights."""

    shared: Float[Array, " shared"]
    own: Float[Array, "shared own"]
    weight: Float[Array, "shared own"]

    def energy(self, shared, own, noise, rest):
        """The mean logarithm of the probability that a field nearby is positive."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(24)
        mean = shared * self.shared[:, None] + own * self.own
        # Where nothing is between them, rounding can be.
        spread = jnp.sqrt(jnp.maximum(noise, 1e-16))

        def shifted(y):
            field = (mean + spread * y) / jnp.sqrt(rest)
            return jnp.sum(self.weight * log_ndtr(field))

        volumes = jax.vmap(shifted)(jnp.asarray(nodes))
        return jnp.asarray(weights / weights.sum()) @ volumes


def typical_fields(kernel, q):
    """Positive fields, by Gauss-Legendre nodes from where they begin."""
    z, weight = saddles.normal(101)
    nodes, lengths = (jnp.asarray(x) for x in np.polynomial.legendre.leggauss(40))
    shared, rest = kernel(q), 1 - kernel(q)
    bound = jnp.sqrt(shared / rest) * z
    start = jnp.maximum(-bound, -8.5)
    reach = jnp.sqrt(jnp.maximum(start, 0) ** 2 + 8.5**2) - start
    own = start[:, None] + reach[:, None] * (1 + nodes)[None] / 2
    density = jnp.exp(-(own**2) / 2 - log_ndtr(bound)[:, None]) / np.sqrt(2 * np.pi)
    measure = (weight * reach / 2)[:, None] * lengths[None]
    return Fields(jnp.sqrt(shared) * z, jnp.sqrt(rest) * own, density * measure)


def frozen_fields(kernel, q, loss, log_beta):
    """Fields of weights drawn by cross-entropy."""
    z, weight = saddles.normal(101)
    shared = jnp.sqrt(kernel(q)) * z
    tilt = lambda mean: costs.tilted(loss, mean, 1 - kernel(q), jnp.exp(log_beta))
    fields, log_weights = jax.vmap(tilt)(shared)
    density = jax.nn.softmax(log_weights, axis=1)
    return Fields(shared, fields - shared[:, None], weight[:, None] * density)


class Ground(eqx.Module):
    """The minimiser of cross-entropy of spherical weights, as a reference."""

    kernel: AbstractKernel
    load: Scalar
    fields: Fields

    def __init__(self, kernel, load, strength):
        loss = costs.CrossEntropy(strength, jnp.asarray(kernel.scale, float))
        z, weight = saddles.normal(801)
        pull = costs.pull(loss, z, costs.log_stiffness(loss, load, kernel.slope))
        self.kernel, self.load = kernel, load
        self.fields = Fields(z, pull[:, None], weight[:, None])

    def spread(self, overlap, tilt, apart):
        """What fields of weights at an overlap from it are made of."""
        kernel, mean = self.kernel, self.kernel(overlap)
        own = jax.grad(kernel)(overlap) * tilt / kernel.slope
        return mean, own, kernel(apart) - mean**2, 1 - kernel(apart)

    def around(self, distance):
        S = 1 - 2 * distance
        orders = lambda x: (S**2 + x[1] * (1 - S**2), S + x[0] * jnp.sqrt(1 - S**2))

        def entropy(x):
            p, tilt = orders(x)
            volume = (jnp.log1p(-p) + (p - S**2 + (S - tilt) ** 2) / (1 - p)) / 2
            return volume + self.load * self.fields.energy(*self.spread(S, tilt, p))

        low, high = jnp.array([-jnp.inf, 0.0]), jnp.array([jnp.inf, 1.0])
        starts = jnp.array([[-0.3, 0.2], [-1.0, 0.02], [-0.5, 0.8]])
        x, residual = saddles.root(_scaled(jax.grad(entropy)), starts, low, high)
        free = jnp.log1p(-(S**2)) / 2
        return entropy(x), free, *orders(x), residual


class Sample(eqx.Module):
    r"""References of mutual overlap $q < 1$."""

    kernel: AbstractKernel
    load: Scalar
    fields: Fields
    q: Scalar
    conjugate: Scalar

    def orders(self, S, x):
        """All overlaps that there can be, of coordinates in (-1, 1) and (0, 1)."""
        q = self.q
        t = q * S + jnp.sqrt(q * (1 - q) * (1 - S**2)) * x[0]
        least = t**2 / q + (S - t) ** 2 / (1 - q)
        return least + x[1] * (1 - least), t

    def energy(self, S, p, t):
        shared, own, other, apart = map(self.kernel, (self.q, S, t, p))
        rest = own - other
        noise = apart - other**2 / shared - rest**2 / (1 - shared)
        parts = other / shared, rest / (1 - shared), noise, 1 - apart
        return self.load * self.fields.energy(*parts)

    def solve(self, slope):
        low, high = jnp.array([-1.0, 0.0]), jnp.array([1.0, 1.0])
        starts = jnp.array([[0.2, 0.2], [0.03, 0.003], [0.6, 0.5]])
        return saddles.root(slope, starts, low, high)

    def around(self, distance):
        S, q = 1 - 2 * distance, self.q

        def entropy(x):
            p, t = self.orders(S, x)
            s = (S**2 - t**2 - q * (S - t) ** 2 / (1 - q)) / (1 - q)
            return (jnp.log1p(-p) + (p - s) / (1 - p)) / 2 + self.energy(S, p, t)

        x, residual = self.solve(_scaled(jax.grad(entropy)))
        free = jnp.log1p(-(S**2)) / 2
        return entropy(x), free, *self.orders(S, x), residual

    def around_binary(self, distance):
        S = 1 - 2 * distance

        def volume(p, t):
            """With its conjugates at what they are for these overlaps."""
            slopes = jax.grad(self.energy, (1, 2))(S, p, t)
            return self.binary(S, -2 * slopes[0], -slopes[1])

        def gap(x):
            p, t = self.orders(S, x)
            _, new_p, new_t = volume(p, t)
            return jnp.stack([new_p - p, new_t - t]) / distance

        x, residual = self.solve(gap)
        p, t = self.orders(S, x)
        slopes = jax.grad(self.energy, (1, 2))(S, p, t)
        log_count = volume(p, t)[0] + slopes[0] * (1 - p) - slopes[1] * t
        free = _binary_entropy(distance)
        return log_count + self.energy(S, p, t), free, p, t, residual

    def binary(self, S, conjugate, cross):
        r"""The mean of $\ln 2 \cosh$ less $\hat S S$, and $p$ and $t$ there."""
        root = jnp.sqrt(self.conjugate)
        spread = jnp.sqrt(jnp.maximum(conjugate - cross**2 / self.conjugate, 1e-16))
        z0, weight0 = saddles.around(jnp.zeros_like(root), root)
        shared = cross / root * z0
        weight = (1 + jnp.tanh(root * z0)) * weight0

        def mean(function, along):
            def inner(shared):
                nodes, measure = saddles.around(-(shared + along) / spread, spread)
                return measure @ function(shared + spread * nodes + along)

            return jax.vmap(inner)(shared)

        aim = lambda along: weight @ mean(jnp.tanh, along) - S
        along = jax.lax.stop_gradient(saddles.bisect(aim, -1e3, 1e4, 50))
        # One step of Newton's gives it derivatives.
        value, slope = jax.value_and_grad(aim)(along)
        along = along - value / jax.lax.stop_gradient(slope)
        t = (weight * jnp.tanh(root * z0)) @ mean(jnp.tanh, along)
        log_count = weight @ mean(saddles.log_2_cosh, along) - (along + cross) * S
        p = weight @ mean(lambda x: jnp.tanh(x) ** 2, along)
        return log_count, p, t


def _scaled(slope):
    """Of order one where solutions come close to one another, and zero nowhere else."""
    return lambda x: slope(x) * (1 - x[1]) ** jnp.arange(1.0, 3.0)


def _binary_entropy(d):
    return -d * jnp.log(d) - (1 - d) * jnp.log1p(-d)
