"""The whole spectrum at once: its density, sum and sum of squares, with error bars."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree, ScalarLike

from .._linalg import decompositions
from ..losses import AbstractLoss
from ..modules import of_modules
from .curvature import Part, frozen, operator


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
                below the distance of neighbouring `values`, these show one by one.
        """
        width = jnp.asarray(width, self.values.dtype)
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

    By stochastic Lanczos quadrature with full orthogonalisation (Lin, Saad & Yang, 2016;
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
    if probes < 2 or matvecs < 1:
        raise ValueError(
            "`spectral_density(probes=..., matvecs=...)` must be at least 2, for an error, "
            f"and 1, but are {probes} and {matvecs}."
        )
    size = jax.eval_shape(lambda: ravel_pytree(network)[0]).size
    place = (loss, network, preconditioner)
    if size <= exact:
        return _dense(place, part)
    return _stochastic(place, part, probes, min(matvecs, size), jr.key(seed))


@eqx.filter_jit
def _dense(place, part):
    flat, apply = _flat(place, part)
    matrix = jax.vmap(apply)(jnp.eye(flat.size, dtype=flat.dtype))
    values = decompositions.eigvalsh(jax.lax.stop_gradient(matrix))[None]
    weights = jnp.full_like(values, 1 / flat.size)
    none = jnp.zeros((), flat.dtype)
    return SpectralDensity(
        values, weights, jnp.trace(matrix), none, _root(jnp.sum(matrix**2)), none
    )


@eqx.filter_jit
def _stochastic(place, part, probes, matvecs, key):
    flat, apply = _flat(place, part)
    _, constant = _flat(frozen(place), part)
    signs = jr.rademacher(key, (probes, flat.size), flat.dtype)
    images = jax.lax.map(apply, signs)
    trace, trace_error = _mean(jnp.sum(signs * images, axis=1))
    square, square_error = _mean(jnp.sum(images**2, axis=1))
    norm = _root(square)
    norm_error = square_error / jnp.where(norm > 0, 2 * norm, 1)
    quadrature = lambda z: _quadrature(constant, z / flat.size**0.5, matvecs)
    values, weights = jax.lax.map(quadrature, signs)
    return SpectralDensity(values, weights, trace, trace_error, norm, norm_error)


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
        scale = jnp.maximum(scale, jnp.linalg.norm(image))
        diagonal = diagonal.at[j].set(row @ image)
        for _ in range(2):
            image = image - (basis @ image) @ basis
        size = jnp.linalg.norm(image)
        size = jnp.where(size > 10 * start.size**0.5 * eps * scale, size, 0)
        row = jnp.where(size > 0, image / jnp.where(size > 0, size, 1), 0)
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


def _root(square):
    """A square root whose derivative at zero is zero, not infinite."""
    zero = square == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, square)))
