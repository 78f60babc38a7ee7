r"""Complementarity over positive semidefinite matrices, small ones, without leaving JAX.

$$ X \succeq 0, \quad S = A + \mathcal{B}[X] \succeq 0, \quad \langle X, S \rangle = 0, $$

for a symmetric positive semidefinite operator $\mathcal{B}$: the optimality conditions of
the convex program $\min_{X \succeq 0} \frac12 \langle X, \mathcal{B} X \rangle +
\langle A, X \rangle$.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._linalg import decompositions
from .._linalg.precision import full_precision


def pairs(k: int) -> tuple[np.ndarray, np.ndarray]:
    r"""The places $a \le b$ of a symmetric matrix, those of smaller ones first."""
    found = [(a, b) for b in range(k) for a in range(b + 1)]
    first, second = np.array(found).T
    return first, second


def weights(k: int, dtype) -> Float[Array, " pairs"]:
    """What makes the vector of a symmetric matrix as long as the matrix."""
    first, second = pairs(k)
    return jnp.asarray(np.where(first == second, 1.0, 2.0**0.5), dtype)


def svec(matrix: Float[Array, "k k"]) -> Float[Array, " pairs"]:
    """A symmetric matrix as a vector, with the same inner products."""
    k = matrix.shape[0]
    return matrix[pairs(k)] * weights(k, matrix.dtype)


def smat(vector: Float[Array, " pairs"]) -> Float[Array, "k k"]:
    """The symmetric matrix of a vector."""
    k = int((2 * vector.size) ** 0.5)
    first, second = pairs(k)
    # By looking up and not by writing, which has no slope backwards.
    place = np.zeros((k, k), int)
    place[first, second] = place[second, first] = np.arange(vector.size)
    return (vector / weights(k, vector.dtype))[place]


@jax.custom_jvp
def complementary(
    a: Float[Array, "k k"], b: Float[Array, "pairs pairs"]
) -> tuple[Float[Array, "k k"], Float[Array, "k k"]]:
    r"""The matrices $X$ and $S$, for $\mathcal{B}$ as a matrix between vectors.

    By a primal-dual interior-point method in the scaling of Nesterov & Todd (1997), which
    stops when the gap is at rounding. Where $\mathcal{B}$ vanishes but $A$ is not positive
    there is no solution; what comes back then has a negative $S$ or a gap. Derivatives are
    those of the conditions, and exact where $X + S$ is positive definite.
    """
    if a.shape[0] == 1:  # Rounding and all.
        slope, offset = b[0, 0], a[0, 0]
        able = (slope > 0) & (offset < 0)
        x = jnp.where(able, -offset / jnp.where(able, slope, 1), 0)
        return x[None, None], (offset + slope * x)[None, None]
    return _interior_point(a, b)


def _interior_point(a, b):
    k, dtype = a.shape[0], a.dtype
    eps = jnp.finfo(dtype).eps
    size_a, size_b = (jnp.max(jnp.abs(m)) for m in (a, b))
    size_a, size_b = (jnp.where(size > 0, size, 1) for size in (size_a, size_b))
    a, b = a / size_a, b / size_b
    # Without this, directions that nothing moves would have no least X.
    b = b + 100 * eps * jnp.eye(b.shape[0], dtype=dtype)
    goal = 10 * eps**0.75

    def improve(_, state):
        x, s, best = state
        mu = jnp.vdot(x, s) / k
        miss = a + smat(b @ svec(x)) - s
        root, inverse = _powers(s, 0.5), _powers(x, -1.0)
        scaling = root @ _powers(root @ x @ root, -0.5) @ root
        matrix = b + _twice(scaling)
        # Straight for the boundary, but for a tenth.
        right = 0.1 * mu * inverse - s - miss
        dx = smat(decompositions.solve(matrix, svec(right)))
        ds = smat(b @ svec(dx)) + miss
        stride = jnp.minimum(_room(x, dx), _room(s, ds))
        new = x + stride * dx, s + stride * ds
        error = jnp.abs(jnp.vdot(*new)) / k
        error += jnp.max(jnp.abs(a + smat(b @ svec(new[0])) - new[1]))
        better = jnp.isfinite(error) & (best > goal)
        keep = lambda new, old: jnp.where(better, new, old)
        return keep(new[0], x), keep(new[1], s), keep(error, best)

    unit = jnp.eye(k, dtype=dtype)
    start = unit, unit, jnp.asarray(jnp.inf, dtype)
    x, s, _ = jax.lax.fori_loop(0, 25, improve, start)
    return x * (size_a / size_b), s * size_a


@complementary.defjvp
@full_precision
def _(primals, tangents):
    (a, b), (da, db) = primals, tangents
    x, s = complementary(a, b)
    if a.shape[0] == 1:
        pushed = x > 0
        moves = -(da + db * x) / jnp.where(pushed, b, 1)
        dx = jnp.where(pushed, moves, 0)
        return (x, s), (dx, da + db * x + b * dx)
    # They say that X is the positive part of c X - S, over c > 0.
    size = jnp.max(jnp.abs(b))
    size = jnp.where(size > 0, size, 1)
    values, axes = decompositions.eigh(size * x - s)
    parts, gaps = jnp.maximum(values, 0), values[:, None] - values[None]
    same = jnp.abs(gaps) <= 1e-12 * jnp.max(jnp.abs(values))
    ratios = (parts[:, None] - parts[None]) / jnp.where(same, 1, gaps)
    ratios = jnp.where(same, (values > 0).astype(b.dtype)[:, None], ratios)
    unit = jnp.eye(b.shape[0], dtype=b.dtype)
    turn = lambda e: axes @ (ratios * (axes.T @ smat(e) @ axes)) @ axes.T
    part = jax.vmap(lambda e: svec(turn(e)))(unit).T
    moved = svec(da) + db @ svec(x)
    matrix = size * unit - part @ (size * unit - b) + jnp.finfo(b.dtype).eps * size * unit
    dx = decompositions.solve(matrix, -part @ moved)
    return (x, s), (smat(dx), smat(moved + b @ dx))


def _powers(matrix, power):
    """A power of a positive definite matrix."""
    values, axes = decompositions.eigh((matrix + matrix.T) / 2)
    floor = jnp.finfo(matrix.dtype).tiny ** 0.5
    return (axes * jnp.maximum(values, floor)[None] ** power) @ axes.T


def _twice(matrix):
    r"""The operator $E \mapsto M E M$ between vectors of symmetric matrices."""
    k = matrix.shape[0]
    unit = jnp.eye(k * (k + 1) // 2, dtype=matrix.dtype)
    return jax.vmap(lambda e: svec(matrix @ smat(e) @ matrix))(unit)


def _room(x, dx):
    """How much of a step stays inside the cone, short of its boundary."""
    half = _powers(x, -0.5)
    lowest = decompositions.eigvalsh(half @ dx @ half)[0]
    return jnp.minimum(1.0, 0.95 / jnp.maximum(-lowest, 1e-30))
