"""The largest Hessian eigenvalue of many small deep linear networks with one output.

Lanczos with its three-term recurrence, in the coordinates of `invariant`, restarted every
32 products from the best vector so far. The top of the tridiagonal matrix is found by
bisection on the signs of its leading minors, its vector by inverse iteration from just
above, where all pivots are positive and nothing cancels. Residuals are computed from their
definition. The networks of a block are the last axis of every array and all other axes are
short, so an operation is one loop over networks.
"""

import functools as ft
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._batching import no_inline, sum_of
from .._linalg.varying import vary_like

WIDEST = 24
# Rows of a basis, products between looks, networks in a block, steps of a compiled loop.
ROWS, STRIDE, BLOCK, UNROLL = 32, 8, 128, 2


def polar(
    v: Float[Array, "..."], axis: int | tuple[int, ...]
) -> tuple[Float[Array, "..."], ...]:
    """Unit vectors, zero where there is no direction, and lengths that do not underflow."""
    peak = jnp.max(jnp.abs(v), axis=axis, keepdims=True)
    v = v / jnp.where(peak > 0, peak, 1)
    length = jnp.sqrt(jnp.sum(v * v, axis=axis, keepdims=True))
    return v / jnp.where(length > 0, length, 1), peak * length


# All sums are over short axes before the last.
_like = lambda c, v: jnp.broadcast_to(c[(None,) * (v.ndim - c.ndim)], v.shape)
_times = no_inline(lambda c, v: _like(c, v) * v)
_minus = no_inline(lambda u, c, v: u - _like(c, v) * v)
_minus_both = no_inline(lambda u, c, v, d, w: u - _like(c, v) * v - _like(d, w) * w)
_within = no_inline(lambda x, y: sum_of(x[:, i] * y[:, i] for i in range(x.shape[1])))
_by_neuron = no_inline(lambda x, y: sum_of(x[i] * y[i] for i in range(len(x))))
_total = no_inline(lambda x: sum_of(x[i] for i in range(len(x))))
_dot = lambda x, y: _total(_by_neuron(x, y))
_length = lambda v: jnp.sqrt(_dot(v, v))
_unit = lambda v, size: _times(jnp.where(size > 0, 1 / jnp.where(size > 0, size, 1), 0), v)


def _operator(weights, target, covariance, readout):
    """The Hessian in coordinates, the `x` of all layers, then the `y`; and a projection.

    Only of vectors that are normal to `a` in each `x` is the Hessian symmetric. It is
    linear in what comes last, the lengths of the columns and the covariance, which are to
    be divided by its size: squares of very small or large curvatures are no numbers.
    """
    depth, width = weights.shape[:2]
    multiply = lambda w, q: sum_of(w[:, i] * q[i][None] for i in range(width))
    backward = lambda p, wy: (
        sum_of(wy[0][i] * p[i][None] for i in range(width)) + wy[1],
        p,
    )
    forward = lambda q, wx: (multiply(wx[0], q) + wx[1], q)
    covary = no_inline(lambda covariance, p: 2 * multiply(covariance, p))
    zeros = vary_like(jnp.zeros_like(weights[:, 0]), weights)
    first, rows = jax.lax.scan(backward, readout, (weights, zeros), reverse=True)
    error = covary(covariance, first - target)
    _, columns = jax.lax.scan(forward, error, (weights, zeros))
    (a, c), (b, h) = polar(rows, 1), polar(columns, 1)
    push = no_inline(lambda h, x, s: h * (x + a * s[:, None]))
    normal = lambda h, p, s: h * (p - a * s[:, None])
    along = lambda h, r, s: c * r + h * s[:, None] * b
    join = no_inline(lambda h, p, r, s: jnp.concatenate([normal(h, p, s), along(h, r, s)]))

    def apply(v, h, covariance):
        x, y = v[:depth], v[depth:]
        inward = weights, _times(c, y)
        last, p = jax.lax.scan(backward, zeros[0], inward, reverse=True)
        outward = weights, push(h, x, _within(y, b))
        _, r = jax.lax.scan(forward, covary(covariance, last), outward)
        return join(h, p, r, _within(a, p))

    upright = no_inline(lambda x, s: x - a * s[:, None])

    def project(v):
        x, y = v[:depth], v[depth:]
        return jnp.concatenate([upright(x, _within(a, x)), y])

    return apply, project, (h, covariance)


@no_inline
def _above(level, diagonal, off):
    """Whether `level` exceeds all eigenvalues of a tridiagonal matrix of norm one."""
    before, now = 1.0, level - diagonal[0]
    yes = now > 0
    for j in range(1, len(diagonal)):
        before, now = now, (level - diagonal[j]) * now - off[j - 1] ** 2 * before
        yes &= now > 0
    return yes


def _top(diagonal, off):
    """The unit vectors of the largest eigenvalues of tridiagonal matrices of norm one."""

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        above = _above(middle, diagonal, off)
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    info = jnp.finfo(diagonal.dtype)
    bracket = jnp.max(diagonal, axis=0), jnp.full(diagonal.shape[1:], 1.01, info.dtype)
    bracket = vary_like(bracket, diagonal)
    level = jax.lax.fori_loop(0, info.nmant - 2, halve, bracket)[1] + 32 * info.eps
    # Inverse iteration: a product of a lower factor, pivots and an upper factor.
    lower = jnp.concatenate([jnp.zeros_like(off[:1]), off[:-1]])
    pivot = lambda d, ab: ((n := level - ab[0] - ab[1] ** 2 / d), n)
    zero, one, s = vary_like(
        (jnp.zeros_like(level), jnp.ones_like(level), jnp.ones_like(diagonal)), diagonal
    )
    pivots = jax.lax.scan(pivot, one, (diagonal, lower))[1]
    down = lambda x, rbd: ((n := rbd[0] + rbd[1] * x), n / rbd[2])
    up = lambda x, rbd: ((n := rbd[0] + rbd[1] / rbd[2] * x), n)
    ratio = lower / jnp.concatenate([pivots[:1], pivots[:-1]])
    for _ in range(2):
        s = jax.lax.scan(down, zero, (s, ratio, pivots))[1]
        s = jax.lax.scan(up, zero, (s, off, pivots), reverse=True)[1]
        s = s / jnp.sqrt(_total(s * s))[None]
    return s


class _Tridiagonal(NamedTuple):
    """A basis, the matrix seen from it, the next row, and the largest image of a row."""

    basis: Float[Array, "rows coordinates width networks"]
    diagonal: Float[Array, "rows networks"]
    off: Float[Array, "rows networks"]
    row: Float[Array, "coordinates width networks"]
    before: Float[Array, "coordinates width networks"]
    beta: Float[Array, " networks"]
    scale: Float[Array, " networks"]


class _Search(NamedTuple):
    """Where a cycle begins, and what is known of each network."""

    basis: Float[Array, "rows coordinates width networks"]
    row: Float[Array, "coordinates width networks"]
    scale: Float[Array, " networks"]
    used: Int[Array, ""]
    value: Float[Array, " networks"]
    vector: Float[Array, "coordinates width networks"]
    found: Bool[Array, " networks"]


def _block(basis, block, max_matvecs):
    """The eigenpairs of a block of networks, and the basis, for the next to overwrite."""
    place, start, rtol = block
    (product, project, sizes), eps = _operator(*place), jnp.finfo(start.dtype).eps
    # Which has only coordinates that exist.
    first, size = polar(product(start, *sizes), (0, 1))
    size = jnp.where(size > 0, size, 1)
    sizes = jax.tree.map(lambda x: x / size, sizes)
    apply = lambda v: product(v, *sizes)
    noise = (start.shape[0] * start.shape[1]) ** 0.5 * eps
    none = jnp.zeros(start.shape[-1], start.dtype)
    table, index = jnp.zeros((ROWS, none.size), none.dtype), jnp.arange(ROWS)[:, None]
    none, table = vary_like((none, table), start, place)

    def extend(first, j, t):
        image = apply(t.row)
        alpha = _dot(image, t.row)
        image = _minus_both(image, alpha, t.row, t.beta, t.before)
        image = _minus(image, _dot(image, first), first)
        size = _length(image)
        scale = jnp.maximum(t.scale, jnp.sqrt(alpha**2 + t.beta**2 + size**2))
        size = jnp.where(size > 100 * eps * scale, size, 0)  # Else the space is full.
        rows = t.basis.at[j].set(t.row), t.diagonal.at[j].set(alpha), t.off.at[j].set(size)
        # Where little is left of the image, what rounding left along `a` is not little.
        return _Tridiagonal(*rows, project(_unit(image, size)), t.row, size, scale)

    def more(first, carry):
        j, t, mixing, found = carry
        step = lambda k, t: extend(first, j + k, t)
        t, j = jax.lax.fori_loop(0, STRIDE, step, t, unroll=UNROLL), j + STRIDE
        ahead = jnp.concatenate([jnp.ones_like(t.off[:1]), t.off[:-1]]) > 0
        alive = (index < j) & jnp.cumprod(ahead, axis=0, dtype=bool)
        norm = 1 / jnp.where(t.scale > 0, 2 * t.scale, 1)[None]
        off = jnp.where(index < j - 1, t.off * norm, 0)
        s = _top(jnp.where(alive, t.diagonal * norm, -1), off)
        # What is found stays: a second copy of its eigenvalue would grow from rounding.
        mixing = jnp.where(found[None], mixing, jnp.where(alive, s, 0))
        found |= jnp.take(s, j - 1, axis=0) * t.beta <= 0.5 * rtol * t.scale
        return j, t, mixing, found

    def cycle(search):
        basis, first, scale, used, value, vector, found = search
        wanted = lambda c: (c[0] < ROWS) & (used + c[0] < max_matvecs) & ~jnp.all(c[3])
        t = _Tridiagonal(basis, table, table, first, jnp.zeros_like(first), none, scale)
        carry = jax.lax.while_loop(wanted, ft.partial(more, first), (0, t, table, found))
        j, t, mixing, _ = carry
        add = lambda i, v: _minus(v, -mixing[i], t.basis[i])
        row = jax.lax.fori_loop(0, j, add, jnp.zeros_like(first))
        row = _unit(row, _length(row))
        image = apply(row)
        quotient = _dot(row, image)
        residual = _length(_minus(image, quotient, row))
        value = jnp.where(found, value, quotient)
        vector = jnp.where(found[None, None], vector, row)
        found |= ~(residual > (rtol + noise) * t.scale)  # Or is not finite.
        return _Search(t.basis, row, t.scale, used + j + 1, value, vector, found)

    one = jnp.ones((), jnp.int32)
    search = _Search(basis, first, none, one, none, first, none > 0)
    going = lambda search: ~jnp.all(search.found) & (search.used < max_matvecs)
    search = jax.lax.while_loop(going, cycle, search)
    finite = jnp.isfinite(search.scale) & jnp.isfinite(size[0, 0])
    value = jnp.where(finite, size[0, 0] * search.value, jnp.nan)
    return search.basis, (value, search.vector)


@jax.jit
def largest(
    weights: tuple[Float[Array, "networks _ _"], ...],
    target: Float[Array, "networks in"],
    covariance: Float[Array, "networks in in"],
    readout: Float[Array, "networks out"],
    random: Float[Array, "networks size"],
    rtol: Float[Array, " networks"],
    max_matvecs: Int[Array, " networks"],
) -> tuple[Float[Array, " networks"], Float[Array, "networks size"]]:
    """The largest eigenvalues, and the coordinates of their vectors as in `invariant`.

    Args:
        weights: Layers no wider than `WIDEST`; this and what follows for each network.
        target: The row that the network should be.
        covariance: Of the inputs.
        readout: A fixed row after the last layer.
        random: Coordinates to start from.
        rtol: Residual allowed, relative to the largest image of a unit vector.
        max_matvecs: Products after which to stop anyway. The largest of a batch counts,
            and at least twelve.
    """
    sizes = [n for w in weights for n in w.shape[1:]]
    ends, order = [sum(sizes[: k + 1]) for k in range(len(sizes))], slice(None, None, 2)
    width, count = max(sizes), len(random)
    # Neurons that only fill up stay at rest: they would have curvature too.
    full = lambda x: jnp.pad(x, [(0, 0), *((0, width - n) for n in x.shape[1:])])
    parts = [full(part) for part in jnp.split(random, ends[:-1], axis=1)]
    start = jnp.stack(parts[order] + parts[1:][order], axis=1)
    stacked = jnp.stack([full(w) for w in weights], axis=1)
    place = stacked, full(target), full(covariance), full(readout)

    blocks = -(-count // BLOCK)
    lanes = -(-count // (blocks * 16)) * 16

    def fold(x):
        rest = [(0, blocks * lanes - count), *((0, 0) for _ in x.shape[1:])]
        x = jnp.pad(x, rest, mode="edge").reshape(blocks, lanes, *x.shape[1:])
        return jnp.moveaxis(x, 1, -1)

    unfold = lambda x: jnp.moveaxis(x, -1, 1).reshape(-1, *x.shape[1:-1])[:count]
    most = jnp.maximum(jnp.max(max_matvecs), 12)
    run = lambda basis, block: _block(basis, block, most)
    basis = jnp.zeros((ROWS, *start.shape[1:], lanes), start.dtype)
    basis, start, rtol = vary_like((basis, start, rtol), place)
    place = vary_like(place, place)
    _, found = jax.lax.scan(run, basis, jax.tree.map(fold, (place, start, rtol)))
    values, vectors = jax.tree.map(unfold, found)
    depth = len(weights)
    pairs = [vectors[:, (k % 2) * depth + k // 2, :n] for k, n in enumerate(sizes)]
    return values, jnp.concatenate(pairs, axis=1)
