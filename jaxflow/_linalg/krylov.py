"""Krylov spaces of a symmetric matrix: its functions, applied to a vector."""

import functools as ft
import math
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from . import decompositions
from .norms import norm, peak_of

# Products between two looks at the error.
FEW = 8


class Modes(eqx.Module):
    r"""A vector $v = \sum_i c_i u_i$ in approximate eigenvectors of a symmetric matrix.

    Attributes:
        basis: The orthonormal $u_i$, one a row; zeros stand for none.
        rates: Their eigenvalues.
        coefficients: The $c_i$.
        met: Whether functions of the matrix, applied to $v$, are as accurate as asked.
    """

    basis: Float[Array, "*stack modes n"]
    rates: Float[Array, "*stack modes"]
    coefficients: Float[Array, "*stack modes"]
    met: Bool[Array, "*stack"]


def krylov(
    apply: Callable[[Float[Array, " n"]], Float[Array, " n"]],
    v: Float[Array, " n"],
    duration: Float[Array, ""],
    allowed: Float[Array, ""],
    largest: int = 40,
) -> Modes:
    r"""Split a vector into modes that give $\varphi_k(h A) v$, by symmetric Lanczos.

    The space grows, at most to `largest` dimensions, until the first term of the error
    series of $\varphi_1$ (Saad, 1992, for the exponential), which is $h \|v\| \beta_m
    |e_m^\top \varphi_2(h T_m) e_1|$, is below `allowed`. That bounds the error where $A$
    is negative: entries of $e^{s T_m}$ are positive, and those of $e^{s A}$ contract.

    Args:
        apply: The symmetric matrix $A$.
        v: What to split.
        duration: The time $h$.
        allowed: The error allowed, in the units of $v$.
        largest: Products at most.
    """
    largest = min(largest, v.size)
    few, size = min(FEW, largest), norm(v)
    allowed = allowed / jnp.where(size > 0, size, 1)

    def grow(carry):
        count, _, space = carry
        stop = jnp.minimum(count + few, largest)
        space = jax.lax.fori_loop(count, stop, ft.partial(_extend, apply, few), space)
        modes = ft.partial(_modes, space, stop - 1, duration, allowed)
        if few == largest:
            return stop, modes(few), space
        small, full = ft.partial(modes, few), ft.partial(modes, largest)
        return stop, jax.lax.cond(count == 0, small, full), space

    def going(carry):
        count, found, _ = carry
        return ~found.met & (count < largest)

    zeros = ft.partial(jnp.zeros, dtype=v.dtype)
    start = v / jnp.where(size > 0, size, 1)
    space = _Space(zeros((largest, v.size)), zeros((largest, largest)), start, zeros(()))
    none = Modes(space.basis, zeros(largest), zeros(largest), jnp.zeros((), bool))
    _, found, _ = jax.lax.while_loop(going, grow, (jnp.asarray(0), none, space))
    return eqx.tree_at(lambda m: m.coefficients, found, size * found.coefficients)


class _Space(NamedTuple):
    """A Krylov space that grows.

    Attributes:
        basis: Orthonormal rows, and zeros for those to come.
        matrix: The symmetric matrix in them.
        row: The next one.
        beta: How much of its image the last one has outside of the space.
    """

    basis: Array
    matrix: Array
    row: Array
    beta: Array


def _extend(apply, few, count, space: _Space) -> _Space:
    """One more row."""
    image = apply(space.row)
    peak = peak_of(image)
    image = image / peak
    basis = space.basis.at[count].set(space.row)
    # Usually few do, and then nothing costs more than they do.
    column, rest = jax.lax.cond(
        count < few,
        lambda: _orthogonal(image, basis[:few], len(basis)),
        lambda: _orthogonal(image, basis, len(basis)),
    )
    column = peak * column
    matrix = space.matrix.at[count].set(column).at[:, count].set(column)
    beta = jnp.linalg.norm(rest)
    least = 10 * jnp.finfo(image.dtype).eps * jnp.linalg.norm(image)
    beta = jnp.where(beta > least, beta, 0)
    row = rest / jnp.where(beta > 0, beta, jnp.inf)
    return _Space(basis, matrix, row, peak[0] * beta)


def _orthogonal(image, basis, largest):
    """The parts of an image in a basis, and what is outside of it."""
    column = basis @ image
    rest = image - column @ basis
    rest = rest - (basis @ rest) @ basis  # Twice is enough (Kahan, Parlett).
    return jnp.pad(column, (0, largest - len(column))), rest


def _modes(space: _Space, last, duration, allowed, count: int) -> Modes:
    """Those of a unit vector in the first rows of a space, up to the last that it has."""
    largest = len(space.basis)
    # LAPACK may hang on what is not finite.
    finite = jnp.all(jnp.isfinite(space.matrix)) & jnp.isfinite(duration)
    small = jnp.where(finite, space.matrix[:count, :count], 0)
    rates, mixing = decompositions.eigh(small)
    ahead = mixing[last] @ (phi(duration * rates)[2] * mixing[0])
    error = jnp.abs(duration) * space.beta * jnp.abs(ahead)
    pad = lambda a: jnp.pad(a, [(0, largest - count)] + [(0, 0)] * (a.ndim - 1))
    modes = pad(mixing.T @ space.basis[:count])
    return Modes(modes, pad(rates), pad(mixing[0]), finite & (error <= allowed))


def quadrature(
    apply: Callable[[Float[Array, " n"]], Float[Array, " n"]],
    v: Float[Array, " n"],
    count: int,
) -> tuple[Float[Array, " nodes"], Float[Array, " nodes"]]:
    r"""Nodes and roots of weights of $v^\top f(A) v \approx \sum_i a_i^2 f(x_i)$, of Gauss.

    By Lanczos with its three-term recurrence: what it loses of orthogonality splits
    weights between copies of a node, and leaves such sums as they are (Greenbaum, 1989).
    Roots, because the square of a very short vector is no number.

    Args:
        apply: The symmetric matrix $A$.
        v: The vector.
        count: Products, and nodes; those of weight zero may be absent.
    """
    eps = jnp.finfo(v.dtype).eps
    size = norm(v)

    def extend(state, _):
        row, before, beta = state
        image = apply(row)
        peak = peak_of(image)
        image, (peak,) = image / peak, peak
        length = jnp.linalg.norm(image)
        alpha = image @ row
        image = image - alpha * row - beta / peak * before
        size = jnp.linalg.norm(image)
        size = jnp.where(size > 10 * eps * length, size, 0)  # Else the space is full.
        alpha, beta = peak * alpha, peak * size
        return (image / jnp.where(size > 0, size, jnp.inf), row, beta), (alpha, beta)

    start = (v / jnp.where(size > 0, size, 1), jnp.zeros_like(v), jnp.zeros_like(size))
    _, (diagonal, off) = jax.lax.scan(extend, start, length=min(count, v.size))
    small = jnp.diag(diagonal) + jnp.diag(off[:-1], 1) + jnp.diag(off[:-1], -1)
    # LAPACK may hang on what is not finite.
    finite = jnp.all(jnp.isfinite(small))
    nodes, mixing = decompositions.eigh(jnp.where(finite, small, 0))
    return nodes, jnp.where(finite, size * mixing[0], jnp.nan)


def phi(z: Float[Array, "..."], highest: int = 4) -> list[Float[Array, "..."]]:
    r"""$\varphi_0 \dots \varphi_k$, with $\varphi_0 = e^z$, $\varphi_k(0) = 1/k!$ and
    $\varphi_{k+1}(z) = (\varphi_k(z) - 1/k!) / z$, to rounding at every real $z$.

    Upwards from `expm1` where $|z| > 1$; elsewhere downwards from the Taylor series of
    the highest, because the recursion cancels.
    """
    near = jnp.abs(z) <= 1
    small, large = jnp.where(near, z, 0), jnp.where(near, 2, z)
    terms = [1 / math.factorial(highest + j) for j in range(18)]
    down = [jnp.polyval(jnp.array(terms[::-1], z.dtype), small)]
    for k in reversed(range(highest)):
        down.append(small * down[-1] + 1 / math.factorial(k))
    up = [jnp.exp(large), jnp.expm1(large) / large]
    for k in range(1, highest):
        up.append((up[-1] - 1 / math.factorial(k)) / large)
    return [jnp.where(near, d, u) for d, u in zip(reversed(down), up, strict=True)]
