"""The largest eigenpairs of a symmetric operator of which only products are known."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from . import decompositions
from .norms import unit
from .varying import vary_like


class Pairs(NamedTuple):
    """Eigenpairs, largest first, residual norms, error bounds, products, and success.

    Success means that the residuals met the tolerance; of what is not finite, never.
    """

    values: Float[Array, " count"]
    vectors: Float[Array, "count n"]
    residuals: Float[Array, " count"]
    bounds: Float[Array, " count"]
    matvecs: Int[Array, ""]
    converged: Bool[Array, ""]


class _State(NamedTuple):
    """A basis (rows), its images, the direction to try next, and what is known.

    All in units of `peak`, the largest entry of the first image that is not zero: squares
    of very small or very large curvatures are no numbers.
    """

    basis: Float[Array, "rows n"]
    images: Float[Array, "rows n"]
    row: Float[Array, " n"]
    peak: Float[Array, ""]
    scale: Float[Array, ""]
    used: Int[Array, ""]
    values: Float[Array, " count"]
    residuals: Float[Array, " count"]
    before: Float[Array, " count"]
    looked: Bool[Array, ""]
    done: Bool[Array, ""]


def largest(
    apply: Callable[[Float[Array, " n"]], Float[Array, " n"]],
    start: Float[Array, " n"],
    count: int,
    rtol: Float[Array, ""],
    max_matvecs: Int[Array, ""],
    near: Float[Array, "_ n"] | None = None,
) -> Pairs:
    """The `count` largest eigenpairs, by thick-restarted Lanczos (Wu & Simon, 2000).

    Every cycle adds at least twelve directions to the best Ritz vectors of the one before,
    eight more than are wanted. The operator seen from the basis is computed in full rather
    than assumed tridiagonal, and residuals from their definition, so a restart, a random
    direction or a warm start needs no special case. Rows of zeros stand for directions
    that do not exist: before the first restart, or in a space that is full.

    It stops when the residuals of all wanted pairs meet the tolerance and no other Ritz
    pair could still reach above them. A repeated eigenvalue shows once in a Krylov space,
    so for more than one pair it then looks once more from a random direction, and stops
    when that changes nothing.

    Args:
        apply: The product with the operator.
        start: A random direction.
        count: How many pairs.
        rtol: Residual allowed, relative to the largest image of a unit vector.
        max_matvecs: Products after which no cycle begins.
        near: Directions close to the wanted vectors, in rows. The search begins from
            their sum and a hundredth of the random direction, which shows what overtook.
    """
    keep, grow = count + 8, max(12, count)
    eps = jnp.finfo(start.dtype).eps
    grain = start.size**0.5 * eps  # What rounding leaves of a product.
    # A rotated start is as random as a fresh draw, and cheaper.
    fresh = lambda used: jnp.roll(start, used + 1)

    def extend(j, carry):
        basis, images, row, peak, scale, used = carry
        image = apply(row)
        peak = jnp.where(peak > 0, peak, jnp.max(jnp.abs(image)))
        image = image / jnp.where(peak > 0, peak, 1)
        basis, images = basis.at[j].set(row), images.at[j].set(image)
        scale = jnp.maximum(scale, jnp.linalg.norm(image))
        rest = image - (basis @ image) @ basis
        exhausted = jnp.linalg.norm(rest) <= 10 * eps * scale
        row = _orthonormal(jnp.where(exhausted, fresh(used), rest), basis)
        return basis, images, row, peak, scale, used + 1

    def cycle(state):
        carry = jax.lax.fori_loop(keep, keep + grow, extend, state[:6])
        basis, images, _, peak, scale, used = carry
        finite = jnp.isfinite(scale)
        values, ritz, images, there = _ritz(basis, images, finite, keep)
        lengths = jnp.linalg.norm(images - values[:, None] * ritz, axis=1)
        reach = jnp.where(there, values + lengths, -jnp.inf)
        slack = (rtol + grain) * scale
        found, unmet = values[:count], lengths[:count] > slack
        hidden = jnp.any(reach[count:] > found[-1] + slack)
        ready = ~jnp.any(unmet) & ~hidden
        urgent = jnp.concatenate([jnp.where(unmet, jnp.inf, -jnp.inf), reach[count:]])
        worst = jnp.argmax(urgent)
        rest = images[worst] - values[worst] * ritz[worst]
        row = _orthonormal(jnp.where(ready, fresh(used), rest), ritz)
        same = jnp.all(jnp.abs(found - state.before) <= rtol * scale)
        enough = count == 1 or (state.looked & same) | ~jnp.any(row)
        room = lambda rows: jnp.pad(rows, ((0, grow), (0, 0)))
        return _State(
            basis=room(ritz),
            images=room(images),
            row=row,
            peak=peak,
            scale=scale,
            used=used,
            values=found,
            residuals=lengths[:count],
            before=jnp.where(ready, found, state.before),
            looked=state.looked | ready,
            done=(ready & enough) | ~finite,
        )

    row = unit(start)
    if near is not None:
        row = unit(jnp.sum(near, axis=0)) + 0.01 * row
    rows = jnp.zeros((keep + grow, start.size), start.dtype)
    nothing, no = jnp.zeros(count, start.dtype), jnp.zeros((), bool)
    zero, used = jnp.zeros((), start.dtype), jnp.zeros((), jnp.int32)
    row = _orthonormal(row, rows)
    state = _State(rows, rows, row, zero, zero, used, nothing, nothing, nothing, no, no)
    state = vary_like(state, start, jax.eval_shape(apply, start))
    going = lambda state: ~state.done & (state.used < max_matvecs)
    state = jax.lax.while_loop(going, cycle, state)
    finite = jnp.isfinite(state.scale)
    peak = jnp.where(finite, state.peak, jnp.nan)
    values, residuals = peak * state.values, peak * state.residuals
    # With what is let pass, here and where eigenvalues are looked for once more, and with
    # what products may lose to underflow.
    lost = 100 * start.size**0.5 * jnp.finfo(start.dtype).tiny
    bounds = residuals + peak * ((rtol + grain) * state.scale) + lost
    rest = residuals, bounds, state.used, state.done & finite
    return Pairs(values, state.basis[:count], *rest)


def _ritz(basis, images, finite, keep):
    """The largest Ritz values, their vectors and images, and which of them exist."""
    small = jnp.where(finite, basis @ images.T, 0)
    small = (small + small.T) / 2
    below = 1 + 2 * jnp.max(jnp.sum(jnp.abs(small), axis=1))
    absent = ~jnp.any(basis != 0, axis=1)
    values, mixing = decompositions.eigh(small - jnp.diag(jnp.where(absent, below, 0)))
    values, mixing = values[::-1][:keep], mixing[:, ::-1][:, :keep].T
    ritz = mixing @ basis
    there = jnp.linalg.norm(ritz, axis=1) > 0.5
    ritz = jnp.where(there[:, None], ritz, 0)
    images = jnp.where(there[:, None], mixing @ images, 0)
    return jnp.where(there, values, 0), ritz, images, there


def _orthonormal(v, basis):
    """The unit vector along what the basis leaves of `v`; zero if it leaves nothing.

    What is left once is left whole a second time (Kahan, Parlett), unless it was rounding.
    """
    v = unit(v)
    v = unit(v - (basis @ v) @ basis)
    v = v - (basis @ v) @ basis
    size = jnp.linalg.norm(v)
    far = size > 0.5
    return jnp.where(far, v / jnp.where(far, size, 1), 0)
