"""Constants inside `jax.shard_map`, whose loops ask where each number may differ."""

from typing import Any, TypeVar

import jax
from jaxtyping import PyTree

T = TypeVar("T", bound=PyTree)


def vary_like(tree: T, *others: PyTree) -> T:
    """`tree`, marked as what may differ between devices where `others` may.

    A loop that begins at a constant and goes on with what is computed from the `others`
    needs it inside `jax.shard_map`. Elsewhere it is `tree` itself.
    """
    axes = frozenset().union(*map(_axes, jax.tree.leaves(others)))
    if not axes:
        return tree

    def mark(x):
        new = tuple(sorted(axes - _axes(x)))
        return jax.lax.pcast(x, new, to="varying") if new else x

    return jax.tree.map(mark, tree)


def _axes(x: Any) -> frozenset[str]:
    """The axes of a mesh along which it may differ; the name is another since JAX 0.10."""
    kind = x if isinstance(x, jax.ShapeDtypeStruct) else jax.typeof(x)
    found = getattr(kind, "vma", None)
    if found is None:
        found = getattr(getattr(kind, "mat", None), "varying", None)
    return frozenset(found or ())
