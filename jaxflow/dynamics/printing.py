"""A run in a few lines, as it is printed."""

import enum
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def lines(run: Any, verdicts: type[enum.IntEnum]) -> list[str] | None:
    """What a trajectory is, by its numbers; nothing if it does not hold any (yet).

    Of a batch, numbers are the least and the largest one. Observables that are trees of
    scalars have a line for each; other trees their type.
    """
    leaves = [leaf for leaf in jax.tree.leaves(run) if leaf is not None]
    if not leaves or not all(map(_known, leaves)):
        return None
    time, status = np.asarray(run.time), np.asarray(run.status)
    batch = status.shape
    if time.ndim < 1 or time.shape[:-1] != batch or not time.size:
        return None
    records = time.shape[-1]
    kind = "gradient flow, " if run.record_steps is None else ""
    kind = kind if run.edge is None else "central flow, "
    many = f"batch of {' x '.join(map(str, batch))}, " if batch else ""
    count = f"{records} records" if records > 1 else "1 record"
    steps = (
        ""
        if run.record_steps is None
        else f", step {_change(run.record_steps[..., [0, -1]])}"
    )
    taken = f" in {_range(run.num_steps)} steps" if run.record_steps is None else ""
    head = f"{kind}{many}{count}, time {_change(time[..., [0, -1]])}{steps}{taken}"
    rows = [("status", _counts(status, verdicts))]
    whole = lambda tree: isinstance(tree, eqx.Module)
    for path, tree in jax.tree.leaves_with_path(run.observed, is_leaf=whole):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        rows.append((name, _observed(tree, time.shape)))
    size = sum(leaf.size for leaf in jax.tree.leaves(run.network)) // math.prod(batch)
    rows.append(("network", f"{type(run.network).__name__}, {size} numbers"))
    width = max(len(name) for name, _ in rows)
    return [head, *(f"{name:{width}}  {words}" for name, words in rows)]


def _known(leaf: Any) -> bool:
    """Whether there are numbers, and here."""
    if isinstance(leaf, Tracer) or not isinstance(leaf, jax.Array | np.ndarray):
        return False
    here = isinstance(leaf, np.ndarray) or leaf.is_fully_addressable
    return here and not (isinstance(leaf, jax.Array) and leaf.is_deleted())


def _counts(status: np.ndarray, verdicts: type[enum.IntEnum]) -> str:
    """How runs ended, in words."""
    words = {int(verdict): verdict.name.lower() for verdict in verdicts}
    found, counts = np.unique(status, return_counts=True)
    named = [words.get(int(kind), str(kind)) for kind in found]
    if status.ndim == 0:
        return named[0]
    return ", ".join(f"{n} {name}" for n, name in zip(counts, named, strict=True))


def _observed(tree: Any, shape: tuple[int, ...]) -> str:
    if not eqx.is_array(tree):
        return f"{type(tree).__name__} at each record"
    real = jnp.issubdtype(tree.dtype, jnp.floating) | jnp.issubdtype(
        tree.dtype, jnp.integer
    )
    if tree.shape == shape and (real or tree.dtype == bool):
        return _change(tree[..., [0, -1]])
    return f"{' x '.join(map(str, tree.shape[len(shape) :])) or 1} numbers at each record"


def _change(values: Any) -> str:
    """From the first to the last."""
    return f"{_range(values[..., 0])} -> {_range(values[..., 1])}"


def _range(values: Any) -> str:
    """A number, or the least and the largest of several that are finite."""
    values = np.asarray(values).ravel()
    values = values if values.dtype.kind in "biu" else values.astype(float)
    known = values[np.isfinite(values)]
    if not known.size:
        return f"{values[0]}"
    told = str if values.dtype.kind == "b" else "{:.4g}".format
    least, largest = told(known.min()), told(known.max())
    return least if least == largest else f"{least}..{largest}"
