"""Euclidean norms whose squares neither overflow nor underflow."""

import functools as ft

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, Scalar


def norm(
    x: Float[Array, "..."], axis: int | None = None, *, keepdims: bool = False
) -> Float[Array, "..."]:
    r"""$\sqrt{\sum x^2}$, of all entries or along an axis, at any scale.

    Right to rounding wherever the result is a normal number, where `jnp.linalg.norm` is
    not: in single precision it returns 0 below $10^{-23}$ and infinity above $10^{19}$.
    Derivatives at zero are zero.
    """
    peak = _divisor(jnp.max(jnp.abs(x), axis=axis, keepdims=True, initial=0))
    size = peak * _root(jnp.sum((x / peak) ** 2, axis=axis, keepdims=True))
    return size if keepdims else jnp.squeeze(size, axis)


def tree_norm(tree: PyTree[Array]) -> Scalar:
    """The Euclidean norm of all entries of all arrays together."""
    leaves = jax.tree.leaves(tree)
    largest = (jnp.max(jnp.abs(leaf), initial=0) for leaf in leaves)
    peak = _divisor(ft.reduce(jnp.maximum, largest))
    return peak * _root(sum(jnp.sum((leaf / peak) ** 2) for leaf in leaves))


def unit(x: Float[Array, " n"]) -> Float[Array, " n"]:
    """The vector over its norm; zeros where there is no direction."""
    size = norm(x)
    return x / jnp.where(size > 0, size, 1)


def _divisor(peak):
    """The largest entry, or one where it is zero or not a number."""
    return jax.lax.stop_gradient(jnp.where(jnp.isfinite(peak) & (peak > 0), peak, 1))


def _root(square):
    """The square root, with a derivative of zero at zero."""
    zero = square == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, square)))
