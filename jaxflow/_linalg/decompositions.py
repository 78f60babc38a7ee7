"""Decompositions of matrices, of which a CPU does a batch one member after the other.

There XLA (0.10) hands the members of a batch to its pool of threads, and waits for them in
threads of that pool: where as many batches wait as there are threads, all wait for ever.
A single matrix is decomposed by the thread that wants it. Values are to the bit those of
`jax.numpy.linalg` for each member; on other devices that is what is called.

All decompositions of the library are here, and so can leave together: once
`python tests/hang.py --ordinary` no longer hangs with the oldest jaxlib that is supported,
`jax.numpy.linalg` takes the place of this module.
"""

import functools as ft
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap
from jax.extend.core import jaxpr_as_fun
from jax.scipy.linalg import solve_triangular as triangular
from jaxtyping import Array, Inexact

from .backend import on_cpu
from .precision import full_precision

Matrix = Inexact[Array, "rows columns"]
Matrices = Inexact[Array, "*stack rows columns"]


def eigh(a: Matrices) -> tuple[Array, Array]:
    return _each("eigh", a)


def eigvalsh(a: Matrices) -> Array:
    return _each("eigvalsh", a)


def eig(a: Matrices) -> tuple[Array, Array]:
    return _each("eig", a)


def svd(a: Matrices, full_matrices: bool = True) -> tuple[Array, Array, Array]:
    return _each("svd", a, full_matrices=full_matrices)


def svdvals(a: Matrices) -> Array:
    return _each("svdvals", a)


def spectral_norm(a: Matrices) -> Array:
    """The largest singular value."""
    return jnp.max(svdvals(a), axis=-1)


def pinv(a: Matrices, rtol: float | None = None, hermitian: bool = False) -> Array:
    return _each("pinv", a, rtol=rtol, hermitian=hermitian)


def det(a: Matrices) -> Array:
    return _each("det", a)


def cholesky(a: Matrices) -> Array:
    return _each("cholesky", a)


def qr(a: Matrices) -> tuple[Array, Array]:
    """Reduced; differentiable for real matrices with no more columns than rows."""
    return _each("qr", a)


def solve(a: Matrix, b: Inexact[Array, "rows *columns"]) -> Array:
    return _solve(a, b) if on_cpu() else jnp.linalg.solve(a, b)


def inv(a: Matrix) -> Array:
    return _solve(a, jnp.eye(*a.shape, dtype=a.dtype)) if on_cpu() else jnp.linalg.inv(a)


def solve_triangular(
    a: Matrix, b: Inexact[Array, "rows *columns"], trans: int = 0, lower: bool = False
) -> Array:
    options = {"trans": trans, "lower": lower}
    return _solve_triangular(a, b, **options) if on_cpu() else triangular(a, b, **options)


def _each(name: str, a: Matrices, **options: Any) -> Any:
    """A function of `jax.numpy.linalg` of every matrix of a stack."""
    if not on_cpu():
        return getattr(jnp.linalg, name)(a, **options)
    one = _one(name, **options)
    for _ in range(a.ndim - 2):
        one = jax.vmap(one)
    return one(a)


@ft.cache
def _one(name: str, **options: Any) -> Callable[[Matrix], Any]:
    function = getattr(jnp.linalg, name)
    return jax.jit(_sequential(lambda a: function(a, **options), _DERIVATIVES.get(name)))


def _sequential(
    function: Callable[..., Any], derivative: Callable[..., Any] | None = None
) -> Callable[..., Any]:
    """`function`, of which a batch is done one member after the other.

    Args:
        function: Of arrays.
        derivative: Its rule for `jax.custom_jvp`, in which what is linear in the tangents
            must not decompose: there batches are ordinary ones, and can be transposed. By
            default JAX's, of which all that depends on the arrays only is done in turn.
    """
    call = jax.custom_jvp(sequential_vmap(full_precision(function)))

    def linearized(primals, tangents):
        traced, shapes = jax.make_jaxpr(
            ft.partial(jax.linearize, function), return_shape=True
        )(*primals)
        found = _sequential(jaxpr_as_fun(traced))(*primals)
        out, linear = jax.tree.unflatten(jax.tree.structure(shapes), found)
        return out, linear(*tangents)

    call.defjvp(full_precision(derivative or linearized))
    return call


def _det_derivative(primals, tangents):
    (a,), (da,) = primals, tangents
    return _one("det")(a), jnp.sum(_cofactors(a) * da)


def _cofactors_derivative(primals, tangents):
    (a,), (da,) = primals, tangents
    found, inverse = _cofactors(a), inv(a)
    return found, inverse.T * jnp.sum(found * da) - inverse.T @ da.T @ found


_cofactors = _sequential(jax.grad(jnp.linalg.det), _cofactors_derivative)


def _cholesky_derivative(primals, tangents):
    (a,), (da,) = primals, tangents
    factor = _one("cholesky")(a)
    half = solve_triangular(factor, (da + da.T) / 2, lower=True)
    whole = solve_triangular(factor, half.T, lower=True)
    return factor, factor @ (jnp.tril(whole) - jnp.diag(jnp.diag(whole)) / 2)


def _qr_derivative(primals, tangents):
    (a,), (da,) = primals, tangents
    out = q, r = _one("qr")(a)
    moved = solve_triangular(r, da.T, trans=1).T
    seen = q.T @ moved
    turned = jnp.tril(seen, -1) - jnp.tril(seen, -1).T
    return out, type(out)(q @ (turned - seen) + moved, (seen - turned) @ r)


_DERIVATIVES = {
    "det": _det_derivative,
    "cholesky": _cholesky_derivative,
    "qr": _qr_derivative,
}


@jax.jit
def _solve(a, b):
    one = sequential_vmap(jnp.linalg.solve)
    return jax.lax.custom_linear_solve(
        full_precision(lambda x: a @ x), b, lambda _, b: one(a, b), lambda _, b: one(a.T, b)
    )


@ft.partial(jax.jit, static_argnames=("trans", "lower"))
def _solve_triangular(a, b, trans, lower):
    matrix = jnp.tril(a) if lower else jnp.triu(a)
    matrix = matrix.T if trans else matrix

    def one(trans):
        return sequential_vmap(lambda a, b: triangular(a, b, trans=trans, lower=lower))

    return jax.lax.custom_linear_solve(
        full_precision(lambda x: matrix @ x),
        b,
        lambda _, b: one(trans)(a, b),
        lambda _, b: one(1 - trans)(a, b),
    )
