"""Euclidean norms whose squares neither overflow nor underflow."""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, PyTree, Scalar


def norm(
    x: Float[Array, "..."], axis: int | None = None, *, keepdims: bool = False
) -> Float[Array, "..."]:
    r"""$\sqrt{\sum x^2}$, of all entries or along an axis, at any scale.

    Right to rounding wherever the result is a normal number, where `jnp.linalg.norm` is
    not: in single precision it returns 0 below $10^{-23}$ and infinity above $10^{19}$. Of
    what is not finite it is not finite. Derivatives at zero are zero. Loops take the norms
    of vectors of order one, to which this one is dear.
    """
    peak = peak_of(x, axis=axis)
    square = jnp.sum((x / peak) ** 2, axis=axis, keepdims=True)
    zero = square == 0
    size = peak * jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, square)))
    return size if keepdims else jnp.squeeze(size, axis)


def tree_norm(tree: PyTree[Array]) -> Scalar:
    """The Euclidean norm of all entries of all arrays together."""
    return norm(ravel_pytree(tree)[0])


def tree_isfinite(tree: PyTree[Array]) -> Bool[Array, ""]:
    """Whether all entries of all arrays are finite."""
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(finite))


def peak_of(x: Float[Array, "..."], axis: int | None = None) -> Float[Array, "..."]:
    """The largest modulus, as a unit to measure `x` in: one if there is none.

    Without derivatives, and with all axes, so that `x / peak_of(x)` is right.
    """
    peak = jnp.max(jnp.abs(jax.lax.stop_gradient(x)), axis=axis, keepdims=True)
    return jnp.where(peak > 0, peak, 1)


def unit(x: Float[Array, " n"]) -> Float[Array, " n"]:
    """A vector of order one over its norm; zeros where there is no direction."""
    size = jnp.sqrt(x @ x)
    return x / jnp.where(size > 0, size, 1)
