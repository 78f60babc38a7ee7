"""The whole spectrum at once: its density, sum and sum of squares, with error bars."""

from typing import get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree, ScalarLike

from .. import _checks
from .._adapters import of_modules
from .._compilation import program
from .._linalg import decompositions
from .._linalg.norms import norm, peak_of
from ..losses import AbstractLoss
from .curvature import Part, check_preconditioner, frozen, operator


class SpectralDensity(eqx.Module):
    r"""A spectrum as seen by random probes, or all of it.

    Each probe sees the density through $m$ values and weights that sum to one, a Gauss
    quadrature that is exact for polynomials of degree $2m - 1$. Errors are one standard
    error over probes; zero where the spectrum is exact.

    Attributes:
        values: Ritz values of each probe; exact eigenvalues, if there is one row.
        weights: What share of the spectrum each value stands for.
        trace: The sum of all eigenvalues.
        trace_error: Its standard error.
        frobenius: The root of the sum of their squares.
        frobenius_error: Its standard error.
    """

    values: Float[Array, "probes m"]
    weights: Float[Array, "probes m"]
    trace: Float[Array, ""]
    trace_error: Float[Array, ""]
    frobenius: Float[Array, ""]
    frobenius_error: Float[Array, ""]

    def __call__(
        self, grid: Float[Array, " grid"], *, width: ScalarLike
    ) -> tuple[Float[Array, " grid"], Float[Array, " grid"]]:
        """The density at the points of a grid, and its standard error.

        Smoothed with a Gaussian, so that it integrates to one.

        Args:
            grid: Where.
            width: The Gaussian's standard deviation, in units of eigenvalues. Where it is
                below the distance of neighboring `values`, these show one by one.
        """
        dtype = self.values.dtype
        name = "SpectralDensity(...)({}=...)".format
        width = _checks.real(name("width"), width, _checks.POSITIVE, dtype=dtype)
        grid = _checks.real(name("grid"), grid, _checks.REAL, dtype=dtype, ndim=1)
        distance = (grid[:, None, None] - self.values[None]) / width
        bells = jnp.exp(-(distance**2) / 2) / ((2 * jnp.pi) ** 0.5 * width)
        return _mean(jnp.sum(self.weights[None] * bells, axis=-1).T)


@of_modules
def spectral_density(
    loss: AbstractLoss,
    network: PyTree[Array],
    *,
    part: Part = "hessian",
    preconditioner: PyTree[Array] | None = None,
    probes: int = 16,
    matvecs: int = 64,
    exact: int = 256,
    seed: int = 0,
) -> SpectralDensity:
    r"""The spectral density of the Hessian, its trace and its Frobenius norm.

    By stochastic Lanczos quadrature with full orthogonalization (Lin, Saad & Yang, 2016;
    Ghorbani, Krishnan & Xiao, 2019). Networks of few weights take the dense route, with
    all eigenvalues and no error.

    Trace and Frobenius norm are differentiable in `loss`, `network` and `preconditioner`,
    and so are their estimates, exactly: $z \cdot H z$ and $\|H z\|^2$ at fixed probes. The
    values and weights count as constants.

    Args:
        part: The Hessian, or which part of it; see `hessian`.
        preconditioner: As for `spectrum`.
        probes: Random vectors of signs, at least two. Errors fall as their root.
        matvecs: Products with the Hessian for each probe. Details of the density fall as
            their inverse.
        exact: Up to how many weights to take the dense route, which costs as many
            products, and time as their cube.
        seed: Where probes are drawn.

    Raises:
        ValueError: If there are fewer than two probes, or no products.
    """
    _checks.choice("spectral_density(part=...)", part, get_args(Part))
    # One probe has no error.
    probes = _checks.whole("spectral_density(probes=...)", probes, 2)
    matvecs = _checks.whole("spectral_density(matvecs=...)", matvecs)
    exact = _checks.whole("spectral_density(exact=...)", exact, 0)
    key = _checks.seed("spectral_density(seed=...)", seed)
    check_preconditioner("spectral_density", network, preconditioner)
    size = sum(w.size for w in jax.tree.leaves(network))
    place = (loss, network, preconditioner)
    if size <= exact:
        return _dense(place, part)
    return _stochastic(place, part, probes, min(matvecs, size), key)


@program
def _dense(place, part):
    flat, apply = _flat(place, part)
    matrix = jax.vmap(apply)(jnp.eye(flat.size, dtype=flat.dtype))
    values = decompositions.eigvalsh(jax.lax.stop_gradient(matrix))[None]
    weights = jnp.full_like(values, 1 / flat.size)
    none = jnp.zeros((), flat.dtype)
    return SpectralDensity(values, weights, jnp.trace(matrix), none, norm(matrix), none)


@program
def _stochastic(place, part, probes, matvecs, key):
    flat, apply = _flat(place, part)
    _, constant = _flat(frozen(place), part)
    signs = jr.rademacher(key, (probes, flat.size), flat.dtype)
    images = jax.lax.map(apply, signs)
    trace, trace_error = _mean(jnp.sum(signs * images, axis=1))
    sizes = norm(images, axis=1)
    frobenius = norm(sizes) / probes**0.5
    # By squares of what is of order one.
    ratios = sizes / jnp.where(frobenius > 0, frobenius, 1)
    frobenius_error = frobenius * _mean(ratios**2)[1] / 2
    quadrature = lambda z: _quadrature(constant, z / flat.size**0.5, matvecs)
    values, weights = jax.lax.map(quadrature, signs)
    return SpectralDensity(values, weights, trace, trace_error, frobenius, frobenius_error)


def _flat(place, part):
    flat, unravel = ravel_pytree(place[1])
    product = operator(place, part)
    return flat, lambda v: ravel_pytree(product(unravel(v)))[0]


def _quadrature(apply, start, count):
    """Gauss nodes and weights of the spectrum that `start`, a unit vector, sees.

    Where the Krylov space is exhausted the rest of the matrix is zero and apart from
    the first row, so its nodes have no weight.
    """
    eps = jnp.finfo(start.dtype).eps

    def extend(j, carry):
        basis, diagonal, beside, row, scale = carry
        basis = basis.at[j].set(row)
        image = apply(row)
        peak = peak_of(image)
        image, (peak,) = image / peak, peak
        scale = jnp.maximum(scale, peak * jnp.linalg.norm(image))
        diagonal = diagonal.at[j].set(peak * (row @ image))
        for _ in range(2):
            image = image - (basis @ image) @ basis
        size = jnp.linalg.norm(image)
        enough = peak * size > 10 * start.size**0.5 * eps * scale
        row = jnp.where(enough, image / jnp.where(enough, size, 1), 0)
        size = jnp.where(enough, peak * size, 0)
        return basis, diagonal, beside.at[j].set(size), row, scale

    basis = jnp.zeros((count, start.size), start.dtype)
    nothing = jnp.zeros(count, start.dtype)
    carry = (basis, nothing, nothing, start, jnp.zeros((), start.dtype))
    _, diagonal, beside, _, _ = jax.lax.fori_loop(0, count, extend, carry)
    beside = beside[:-1]
    small = jnp.diag(diagonal) + jnp.diag(beside, 1) + jnp.diag(beside, -1)
    values, vectors = decompositions.eigh(small)
    return values, vectors[0] ** 2


def _mean(samples):
    """The mean along the first axis, with its standard error; zero for one sample."""
    count = samples.shape[0]
    mean = jnp.mean(samples, axis=0)
    if count == 1:
        return mean, jnp.zeros_like(mean)
    spread = jax.lax.stop_gradient(jnp.std(samples, axis=0, ddof=1))
    return mean, spread / count**0.5
