r"""Weights as a reference, their fields, and the entropy of solutions at a distance.

A reference has the entropy around it at any coordinates, with what it is without patterns
and $p$ and $t$ as in `LocalEntropy`; the coordinates where it is stationary; and by how
much it is not. All are integrals, by `finer` times as many nodes as are enough.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Float, Scalar

from . import costs, saddles
from .overlap_kernels import AbstractKernel

# Nodes for what references share, for what is a reference's own, and for other noise.
SHARED, OWN, NOISE = 100, 56, 24


class Fields(eqx.Module):
    """Fields of a reference: what replicas share, what is its own, and their weights."""

    shared: Float[Array, " shared"]
    own: Float[Array, "shared own"]
    weight: Float[Array, "shared own"]
    finer: int = eqx.field(static=True)

    def energy(self, shared, own, noise, rest):
        """The mean logarithm of the probability that a field nearby is positive."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(self.finer * NOISE)
        mean = shared * self.shared[:, None] + own * self.own
        # Where nothing is between them, rounding can be.
        spread = jnp.sqrt(jnp.maximum(noise, 1e-16))

        def shifted(y):
            field = (mean + spread * y) / jnp.sqrt(rest)
            return jnp.sum(self.weight * log_ndtr(field))

        volumes = jax.vmap(shifted)(jnp.asarray(nodes))
        return jnp.asarray(weights / weights.sum()) @ volumes


def typical_fields(kernel, q, finer):
    """Positive fields, by Gauss-Legendre nodes that are denser where they begin."""
    z, weight = saddles.normal(finer * SHARED + 1)
    nodes, lengths = (jnp.asarray(x) for x in np.polynomial.legendre.leggauss(finer * OWN))
    shared, rest = kernel(q), 1 - kernel(q)
    bound = jnp.sqrt(shared / rest) * z
    start = jnp.maximum(-bound, -8.5)
    reach = jnp.sqrt(jnp.maximum(start, 0) ** 2 + 8.5**2) - start
    depths = (1 + nodes) / 2
    own = start[:, None] + reach[:, None] * depths[None] ** 5
    density = jnp.exp(-(own**2) / 2 - log_ndtr(bound)[:, None]) / np.sqrt(2 * np.pi)
    measure = (weight * reach)[:, None] * (5 * depths**4 * lengths / 2)[None]
    return Fields(jnp.sqrt(shared) * z, jnp.sqrt(rest) * own, density * measure, finer)


def frozen_fields(kernel, q, loss, log_beta, finer):
    """Fields of weights drawn by cross-entropy."""
    z, weight = saddles.normal(finer * SHARED + 1)
    shared, count = jnp.sqrt(kernel(q)) * z, finer * costs.NODES
    tilt = lambda mean: costs.tilted(loss, mean, 1 - kernel(q), jnp.exp(log_beta), count)
    fields, log_weights = jax.vmap(tilt)(shared)
    density = jax.nn.softmax(log_weights, axis=1)
    return Fields(shared, fields - shared[:, None], weight[:, None] * density, finer)


class AbstractReference(eqx.Module):
    """What weights are measured against."""

    @abc.abstractmethod
    def entropy(self, distance, x) -> tuple[Array, Array, Array, Array]:
        """Around it, what it is without patterns, $p$ and $t$."""

    @abc.abstractmethod
    def solve(self, distance) -> tuple[Array, Array]:
        """Coordinates where it is stationary, and by how much it is not."""

    @abc.abstractmethod
    def gap(self, distance, x) -> Array:
        """What is zero where it is stationary, of order one elsewhere."""

    def residual(self, distance, x) -> Array:
        return jnp.max(jnp.abs(self.gap(distance, x)))


class Ground(AbstractReference):
    """The minimizer of cross-entropy of spherical weights, as a reference."""

    kernel: AbstractKernel
    load: Scalar
    fields: Fields

    def __init__(self, kernel, load, loss, log_stiffness, finer):
        z, weight = saddles.normal(finer * 800 + 1)
        pull = costs.pull(loss, z, log_stiffness)
        self.kernel, self.load = kernel, load
        self.fields = Fields(z, pull[:, None], weight[:, None], finer)

    def entropy(self, distance, x) -> tuple[Array, Array, Array, Array]:
        S = 1 - 2 * distance
        p, tilt = S**2 + x[1] * (1 - S**2), S + x[0] * jnp.sqrt(1 - S**2)
        volume = (jnp.log1p(-p) + (p - S**2 + (S - tilt) ** 2) / (1 - p)) / 2
        mean, apart = self.kernel(S), self.kernel(p)
        own = jax.grad(self.kernel)(S) * tilt / self.kernel.slope
        energy = self.fields.energy(mean, own, apart - mean**2, 1 - apart)
        value = volume + self.load * energy
        return value, jnp.log1p(-(S**2)) / 2, p, tilt

    def gap(self, distance, x) -> Array:
        return _slope(self, distance, x)

    def solve(self, distance) -> tuple[Array, Array]:
        low, high = jnp.array([-jnp.inf, 0.0]), jnp.array([jnp.inf, 1.0])
        starts = jnp.array([[-0.3, 0.2], [-1.0, 0.02], [-0.5, 0.8]])
        return saddles.root(lambda x: self.gap(distance, x), starts, low, high)


class AbstractSample(AbstractReference):
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

    def solve(self, distance) -> tuple[Array, Array]:
        low, high = jnp.array([-1.0, 0.0]), jnp.array([1.0, 1.0])
        starts = jnp.array([[0.2, 0.2], [0.03, 0.003], [0.6, 0.5]])
        return saddles.root(lambda x: self.gap(distance, x), starts, low, high)


class Sample(AbstractSample):
    """Of spherical weights."""

    def entropy(self, distance, x) -> tuple[Array, Array, Array, Array]:
        S, q = 1 - 2 * distance, self.q
        p, t = self.orders(S, x)
        s = (S**2 - t**2 - q * (S - t) ** 2 / (1 - q)) / (1 - q)
        value = (jnp.log1p(-p) + (p - s) / (1 - p)) / 2 + self.energy(S, p, t)
        return value, jnp.log1p(-(S**2)) / 2, p, t

    def gap(self, distance, x) -> Array:
        return _slope(self, distance, x)


class BinarySample(AbstractSample):
    """Of binary weights."""

    def entropy(self, distance, x) -> tuple[Array, Array, Array, Array]:
        S = 1 - 2 * distance
        p, t = self.orders(S, x)
        energy, slopes = jax.value_and_grad(self.energy, (1, 2))(S, p, t)
        log_count, _, _ = self.counted(S, -2 * slopes[0], -slopes[1])
        log_count += slopes[0] * (1 - p) - slopes[1] * t
        return log_count + energy, _binary_entropy(distance), p, t

    def gap(self, distance, x) -> Array:
        S = 1 - 2 * distance
        p, t = self.orders(S, x)
        slopes = jax.grad(self.energy, (1, 2))(S, p, t)
        _, new_p, new_t = self.counted(S, -2 * slopes[0], -slopes[1])
        return jnp.stack([new_p - p, new_t - t]) / distance

    def counted(self, S, conjugate, cross):
        r"""The mean of $\ln 2 \cosh$ less $\hat S S$, and $p$ and $t$ there.

        Its conjugates are what they are for these overlaps.
        """
        count = self.fields.finer * 120 + 1
        root = jnp.sqrt(self.conjugate)
        spread = jnp.sqrt(jnp.maximum(conjugate - cross**2 / self.conjugate, 1e-16))
        z0, weight0 = saddles.around(jnp.zeros_like(root), root, count)
        shared = cross / root * z0
        weight = (1 + jnp.tanh(root * z0)) * weight0

        def mean(function, along):
            def inner(shared):
                center = -(shared + along) / spread
                nodes, measure = saddles.around(center, spread, count)
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


def _slope(reference, distance, x):
    """Of order one where solutions come close to one another, and zero nowhere else."""
    slope = jax.grad(lambda x: reference.entropy(distance, x)[0])(x)
    return slope * (1 - x[1]) ** jnp.arange(1.0, 3.0)


def _binary_entropy(d):
    return -d * jnp.log(d) - (1 - d) * jnp.log1p(-d)
