r"""What devices make of overlaps: kernels of perceptrons, and of committees without end."""

import abc
from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Scalar, ScalarLike

from ... import _checks


class AbstractKernel(eqx.Module):
    r"""What a device makes of overlaps: $\kappa(x) = K(x) / K(1)$.

    $K(x)$ is the covariance of the outputs $g(u)$, $g(v)$ of two units whose fields have
    variance one and correlation $x$. With infinitely many units, half of them counted
    negative, the output is Gaussian, and the device is a perceptron of overlaps
    $\kappa(x)$. The `scale` is $s = \sqrt{K(1)}$, the standard deviation of the output, and
    the `slope` $\kappa'(1)$, infinite for units that jump.
    """

    scale: eqx.AbstractVar[ScalarLike]
    slope: eqx.AbstractVar[ScalarLike]

    @abc.abstractmethod
    def __call__(self, overlap: ScalarLike) -> Scalar:
        r"""$\kappa$ of an overlap."""


class Perceptron(AbstractKernel):
    r"""One unit: $\kappa(x) = x$."""

    def __call__(self, overlap: ScalarLike) -> Scalar:
        return jnp.asarray(overlap)

    @property
    def scale(self) -> float:
        return 1.0

    @property
    def slope(self) -> float:
        return 1.0


class SignUnits(AbstractKernel):
    r"""Infinitely many units with output $\pm 1$: $\kappa(x) = (2/\pi) \arcsin x$."""

    def __call__(self, overlap: ScalarLike) -> Scalar:
        return 2 / np.pi * jnp.arcsin(overlap)

    @property
    def scale(self) -> float:
        return 1.0

    @property
    def slope(self) -> float:
        return np.inf


class ReLUUnits(AbstractKernel):
    r"""Infinitely many rectified units.

    $\kappa(x) = [\sqrt{1 - x^2} + x (\pi - \arccos x) - 1] / (\pi - 1)$.
    """

    def __call__(self, overlap: ScalarLike) -> Scalar:
        turn = jnp.pi - jnp.arccos(overlap)
        return (jnp.sqrt(1 - overlap**2) + overlap * turn - 1) / (np.pi - 1)

    @property
    def scale(self) -> float:
        return ((np.pi - 1) / (2 * np.pi)) ** 0.5

    @property
    def slope(self) -> float:
        return np.pi / (np.pi - 1)


class SmoothUnits(AbstractKernel):
    r"""Infinitely many units of any smooth activation $g$.

    $K(x) = \sum_{k \ge 1} c_k^2 x^k$ with the coefficients of $g$ in normalized Hermite
    polynomials, up to $k =$ `order`. For $\tanh$ it is exact to rounding; units with a kink
    have their own kernels.

    Args:
        activation: A function of arrays, such as `jnp.tanh`.
        order: Of the last polynomial. Steep activations need many.

    Raises:
        ValueError: If the activation is constant, or if as many polynomials again would
            change the `slope` by more than $10^{-6}$ of it.
    """

    powers: Float[Array, " order"]
    scale: Float[Array, ""]

    def __init__(self, activation: Callable[[Array], Array], *, order: int = 100):
        name = "SmoothUnits(activation=...)"
        _checks.function(name, activation, "arrays")
        order = _checks.whole("SmoothUnits(order=...)", order, 2, 1000)
        nodes = np.linspace(-12, 12, 8001)
        weights = np.exp(-(nodes**2) / 2)
        before, now = np.zeros_like(nodes), np.sqrt(weights / weights.sum())
        values = np.asarray(_checks.numbers(name, activation(jnp.asarray(nodes))))
        if values.shape != nodes.shape:
            raise ValueError(
                f"`{name}` must return as many numbers as it is given, {nodes.size}, but "
                f"returns an array of shape {values.shape}."
            )
        values = values * now
        powers = []
        for k in range(1, 2 * order):
            before, now = now, (nodes * now - (k - 1) ** 0.5 * before) / k**0.5
            powers.append((values @ now) ** 2)
        slopes = np.cumsum(powers * np.arange(1, 2 * order))
        powers = powers[:order]
        variance = np.sum(powers)
        if not variance > 1e-12 * (values @ values):
            raise ValueError(
                f"`{name}` must vary, but its variance for normal "
                f"inputs is {variance}. Pass a function of arrays, such as `jnp.tanh`."
            )
        change = slopes[-1] / slopes[order - 1] - 1
        if not change < 1e-6:
            raise ValueError(
                f"`{name}` must be smooth enough for {order} polynomials, but as many "
                f"again change the slope by {change:.1e} of it. "
                "Raise `order`, to at most 1000, or write its kernel as an "
                "`AbstractKernel`."
            )
        self.powers = jnp.asarray(powers / variance)
        self.scale = jnp.asarray(variance**0.5)

    def __call__(self, overlap: ScalarLike) -> Scalar:
        return jnp.asarray(overlap * jnp.polyval(self.powers[::-1], overlap))

    @property
    def slope(self) -> Scalar:
        return jnp.sum(self.powers * jnp.arange(1.0, self.powers.size + 1))
