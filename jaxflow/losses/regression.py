"""The squared error of linear maps, reduced to the moments of its data."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import (
    Array,
    ArrayLike,
    Float,
    PyTree,
    Scalar,
    ScalarLike,
)

from .. import _checks
from .._linalg import decompositions
from .._linalg.precision import full_precision
from ..networks import DeepLinear
from ..networks.fields import optional_array, real_array
from ..networks.layered import chain
from .base import AbstractLoss, Sum, as_factor
from .data import check_data, check_real
from .samples import factors_of


class Regression(AbstractLoss):
    r"""Mean squared error of a linear network, held by the moments of the data.

    $$ \frac1n \sum_i \|P W x_i - y_i\|^2
       = \mathrm{tr}\,(P W - W_\star)\, \Sigma\, (P W - W_\star)^\top + r, $$

    with $W$ the `product` of the network's layers and $P$ a readout that is not trained. A
    linear network meets its data only through these numbers, so a step costs the same for
    any sample size. Built from data by `from_data`.

    Args:
        target: The least-squares solution $W_\star$ of smallest norm.
        covariance: The input second moments $\Sigma = X^\top X / n$.
        floor: The error $r$ that no linear map removes.
        readout: The fixed map $P$ after the last layer; none means the identity.
    """

    target: Float[Array, "out in"] = eqx.field(
        converter=real_array("Regression(target=...)")
    )
    covariance: Float[Array, "in in"] = eqx.field(
        converter=real_array("Regression(covariance=...)")
    )
    floor: Float[Array, ""] = eqx.field(converter=real_array("Regression(floor=...)"))
    readout: Float[Array, "out hidden"] | None = eqx.field(
        default=None, converter=optional_array("Regression(readout=...)")
    )

    def __check_init__(self):
        shapes = [jnp.shape(leaf) for leaf in (self.target, self.covariance, self.floor)]
        target, covariance, floor = shapes
        if len(target) != 2 or covariance != (target[1],) * 2 or floor:
            raise ValueError(
                "`Regression(target, covariance, floor)` must have the shapes (out, in), "
                f"(in, in) and (), but has {target}, {covariance} and {floor}."
            )
        if self.readout is not None and jnp.shape(self.readout)[:1] != target[:1]:
            raise ValueError(
                f"`Regression(readout=...)` must have a row for each of {target[0]} "
                f"outputs, but has shape {jnp.shape(self.readout)}."
            )

    @classmethod
    @full_precision
    def from_data(
        cls, x: ArrayLike, y: ArrayLike, *, readout: ArrayLike | None = None
    ) -> "Regression":
        """The mean squared error on data `(x, y)`, reduced once to its moments.

        Nothing is centered or scaled. More inputs than samples and collinear inputs are
        fine: the target is then the least-squares solution of smallest norm.
        Differentiable in `x` and `y` as long as the rank of `x` does not change.

        Args:
            x: Inputs, of shape `(samples, in)`.
            y: Targets, of shape `(samples, out)`; `(samples,)` means one output.
            readout: A fixed map after the network, of shape `(out, hidden)`; `(hidden,)`
                means one output.

        Raises:
            ValueError: If there are no samples, shapes do not fit, or data are not finite.
        """
        x, y, readout = check_data("Regression.from_data", x, y, readout)
        return _moments(x, y, readout)

    @classmethod
    @full_precision
    def from_moments(
        cls, covariance: ArrayLike, cross: ArrayLike, power: ScalarLike
    ) -> "Regression":
        r"""The mean squared error on data of which only the second moments are known.

        Args:
            covariance: $E[x x^\top]$, of shape `(in, in)`.
            cross: $E[y x^\top]$, of shape `(out, in)`; `(in,)` means one output.
            power: $E \|y\|^2$.

        Raises:
            ValueError: If shapes do not fit, numbers are not finite, or no data have these
                moments.
        """
        given = {"covariance": covariance, "cross": cross, "power": power}
        covariance, cross, power = check_real("Regression.from_moments", **given)
        cross = jnp.atleast_2d(cross)
        if cross.ndim != 2 or covariance.shape != (cross.shape[1],) * 2 or power.ndim:
            raise ValueError(
                "`Regression.from_moments(covariance, cross, power)` must have the shapes "
                f"(in, in), (out, in) and (), but has {covariance.shape}, {cross.shape} "
                f"and {power.shape}."
            )
        target = cross @ decompositions.pinv(covariance, hermitian=True)
        floor = power - jnp.sum(target * cross)
        if not any(isinstance(m, Tracer) for m in (covariance, cross, power)):
            _check_moments(covariance, cross, power, target)
        return cls(target, covariance, jnp.maximum(floor, 0))

    @classmethod
    @full_precision
    def denoising(cls, x: ArrayLike, *, noise: ScalarLike) -> "Regression":
        r"""The expected error of reconstructing `x` from `x` plus white normal noise.

        $\frac1n \sum_i E_\xi \|W (x_i + \nu \xi) - x_i\|^2$ with standard normal $\xi$:
        that of infinitely many noisy copies of each sample. Nothing is centered.

        Args:
            x: Clean samples, of shape `(samples, in)`.
            noise: The standard deviation $\nu$ of the noise.

        Raises:
            ValueError: If there are no samples, they are not finite, or `noise` is
                negative.
        """
        x, _, _ = check_data("Regression.denoising", x, x, None)
        noise = _checks.real(
            "Regression.denoising(noise=...)", noise, _checks.NOT_NEGATIVE, dtype=x.dtype
        )
        variance = noise**2
        _, sizes, axes = decompositions.svd(x / x.shape[0] ** 0.5, full_matrices=False)
        seen = (
            sizes > max(x.shape) * jnp.finfo(x.dtype).eps * sizes[0]
        )  # More than rounding.
        clean = jnp.where(seen, sizes, 0) ** 2
        noisy = clean + variance
        kept = clean / jnp.where(noisy > 0, noisy, 1)
        target = (axes.T * kept[None]) @ axes
        covariance = (axes.T * clean[None]) @ axes + variance * jnp.eye(
            x.shape[1], dtype=x.dtype
        )
        return cls(target, covariance, variance * jnp.sum(kept))

    def __rmul__(self, factor: ScalarLike) -> "Regression":
        """That of data which are larger by the root of the factor."""
        factor = as_factor(factor).astype(self.covariance.dtype)
        scaled = factor * self.covariance, factor * self.floor
        return Regression(self.target, *scaled, self.readout)

    def outputs(self, network: PyTree) -> Float[Array, "out in"]:
        return self.linear_map(network)

    def criterion(self, outputs: Float[Array, "out in"]) -> Scalar:
        gap = outputs - self.target
        square = jnp.sum((gap @ self.covariance) * gap)
        # Of fewer samples than inputs rounding can make it negative; slopes stay.
        return square + jax.lax.stop_gradient(jnp.maximum(-square, 0))

    def least_excess(self, network: PyTree) -> Scalar | None:
        r"""That of the best map of the rank that fits through the narrowest layer.

        There are no other local minima (Baldi & Hornik, 1989, for two layers; Kawaguchi,
        2016). Unknown with a readout, and of networks that are not a `DeepLinear`.
        """
        if self.readout is not None or not isinstance(network, DeepLinear):
            return None
        narrowest = min(n for w in network.weights for n in w.shape)
        if narrowest == min(self.target.shape):
            return jnp.zeros((), self.target.dtype)
        variances, axes = decompositions.eigh(self.covariance)
        seen = self.target @ axes * jnp.sqrt(jnp.maximum(variances, 0))[None]
        return jnp.sum(decompositions.svdvals(seen)[narrowest:] ** 2)

    def linear_map(self, network: PyTree) -> Float[Array, "out in"]:
        r"""The end-to-end matrix $P W$, readout included.

        Raises:
            ValueError: If the network is not linear, or does not fit the data.
        """
        weights = factors_of(network)
        layers = weights if self.readout is None else (*weights, self.readout)
        for wanted, given, what in (
            (self.target.shape[1], layers[0].shape[1], "accept the data's {} inputs"),
            (layers[-1].shape[1], weights[-1].shape[0], "feed the readout's {} inputs"),
            (self.target.shape[0], layers[-1].shape[0], "return the data's {} outputs"),
        ):
            if self.readout is None and "readout" in what:
                continue
            if wanted != given:
                widths = (weights[0].shape[1], *(w.shape[0] for w in weights))
                raise ValueError(
                    f"The network must {what.format(wanted)}, but has widths {widths}."
                )
        return chain(*reversed(layers))


def needs_regression(name: str, problem: Any, *, readout: bool = True) -> None:
    """Whether a problem is a `Regression`, if need be without a readout.

    Raises:
        TypeError: If it is another loss.
        ValueError: If it has a readout that it must not have.
    """
    way = "Build it with `Regression.from_data(x, y)`."
    if isinstance(problem, Sum):
        way = "Of a sum pass the term."
    _checks.kind(name, problem, Regression, way)
    assert isinstance(problem, Regression)
    if not readout and problem.readout is not None:
        raise ValueError(
            f"`{name}` must have no readout, but has one of shape "
            f"{problem.readout.shape}. Train it as a last layer."
        )


def needs_linear(name: str, network: Any, problem: Regression | None = None) -> None:
    """Whether a network is a `DeepLinear` of real numbers, and fits a problem."""
    _checks.kind(f"{name}(network=...)", network, DeepLinear)
    _checks.weights(name, network)
    if problem is not None:
        jax.eval_shape(problem.linear_map, network)  # Raises if they do not fit.


@jax.jit
def _moments(x, y, readout):
    # From the data and not from their covariance, which squares the condition number.
    target = (decompositions.pinv(x) @ y).T
    floor = jnp.sum((y - x @ target.T) ** 2) / x.shape[0]
    return Regression(target, x.T @ x / x.shape[0], floor, readout)


def _check_moments(covariance, cross, power, target):
    name = "`Regression.from_moments"
    for what, value in (("covariance", covariance), ("cross", cross), ("power", power)):
        if not np.all(np.isfinite(value)):
            raise ValueError(f"{name}({what}=...)` must be finite, but is {value}.")
    covariance, cross, target = map(np.asarray, (covariance, cross, target))
    rounding = np.finfo(covariance.dtype).eps ** 0.5
    least, top = np.linalg.eigvalsh(covariance)[[0, -1]]
    if np.max(np.abs(covariance - covariance.T)) > rounding * abs(top):
        raise ValueError(f"{name}(covariance=...)` must be symmetric.")
    if least < -rounding * abs(top):
        raise ValueError(
            f"{name}(covariance=...)` must be positive semidefinite, but its least "
            f"eigenvalue is {least:.4g}."
        )
    missed = np.linalg.norm(cross - target @ covariance)
    if missed > rounding * np.linalg.norm(cross):
        raise ValueError(
            f"{name}(cross=...)` must be in the range of the covariance, as that of any "
            f"data is, but {missed / np.linalg.norm(cross):.4g} of it is outside. Project "
            "it, or add the inputs that it comes from."
        )
    explained = np.sum(target * cross)
    if power < explained * (1 - rounding):
        raise ValueError(
            f"{name}(power=...)` must be at least {explained:.4g}, which a linear map "
            f"explains, but is {power:.4g}."
        )


def whiten(problem: Regression) -> tuple[Regression, Float[Array, "in in"]]:
    r"""The same problem for inputs $z = \Sigma^{-1/2} x$, whose second moments are one.

    Its target is $W_\star \Sigma^{1/2}$. A network whose first layer is $W_1$ there is one
    with first layer $W_1 \Sigma^{-1/2}$ on the inputs as they were, with the same loss.

    Returns:
        The problem, and $\Sigma^{-1/2}$.

    Raises:
        ValueError: If the covariance is singular.
    """
    needs_regression("whiten(problem=...)", problem)
    variances, axes = decompositions.eigh(problem.covariance)
    if not isinstance(variances, Tracer):
        size, values = variances.size, np.asarray(variances)
        rank = int(np.sum(values > size * np.finfo(values.dtype).eps * values[-1]))
        if rank < size:
            raise ValueError(
                "`whiten` needs inputs that vary in all directions, but the covariance "
                f"has rank {rank} of {size}. Project the inputs onto its range, or add "
                "noise to them."
            )
    spread = jnp.sqrt(variances)
    root, inverse = (axes * s[None] @ axes.T for s in (spread, 1 / spread))
    white = jnp.eye(spread.size, dtype=spread.dtype)
    target = problem.target @ root
    return Regression(target, white, problem.floor, problem.readout), inverse
