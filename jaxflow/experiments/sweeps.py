"""One run at every point of a grid, with the same seeds at each."""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr
from jaxtyping import PRNGKeyArray

from ..dynamics import Status, Trajectory


def sweep(
    run: Callable[..., Trajectory],
    *,
    key: PRNGKeyArray,
    seeds: int,
    axes: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Call `run(key, **point)` at every point of a grid, vectorised, seeds included.

    Every point sees the same seeds, so that points can be compared in pairs. One member
    that fails is marked in `status` and leaves the others alone; pass `throw=False` to
    `gradient_flow`. What changes shapes or code, such as depth or solver, is not an axis
    but another sweep, for `xarray.concat`.

    Args:
        run: A function of a key and of the axes by name, made of JAX operations.
        key: Split into the seeds.
        seeds: The number of seeds.
        axes: Values of each argument of `run` that varies, by name.

    Returns:
        The observables by name, and `time`, `steps` and `status`, over the dimensions
        `seed`, the axes in their order, and `record` where they depend on time. Further
        dimensions of an observable are numbered after its name; one that is a tree, such
        as `snapshot`, becomes a variable for each leaf (`network.weights.0`).

    Raises:
        ValueError: If an axis has no values, repeated ones, or a name that is taken.
    """
    axes = {name: np.asarray(values) for name, values in (axes or {}).items()}
    own = {"seed", "record", "time", "steps", "status", "remaining"}
    if clash := sorted(own & set(axes)):
        raise ValueError(f"`sweep(axes=...)` names {clash} itself. Rename that axis.")
    for name, values in axes.items():
        if values.ndim != 1 or values.size == 0 or len(np.unique(values)) < values.size:
            raise ValueError(
                f"`sweep(axes=...)` must hold one or more different values of {name!r}, "
                f"but holds {values.tolist()}."
            )
    if seeds < 1:
        raise ValueError(f"`sweep(seeds=...)` must be positive, but is {seeds}.")
    grid = jnp.meshgrid(jnp.arange(seeds), *map(jnp.asarray, axes.values()), indexing="ij")
    shape = grid[0].shape
    # One flat batch rather than nested ones: it is one loop, and as fast as any.
    members = [values.ravel() for values in grid]
    keys = jr.split(key, seeds)[members[0]]

    def call(key, *point):
        runs = run(key, **dict(zip(axes, point, strict=True)))
        if clash := sorted((own | set(axes)) & set(runs.observed)):
            raise ValueError(f"`sweep` names {clash} itself. Rename that observable.")
        return runs

    many = eqx.filter_jit(eqx.filter_vmap(call))(keys, *members[1:])
    return _label(many, shape, axes)


def _label(
    many: Trajectory, shape: tuple[int, ...], axes: Mapping[str, np.ndarray]
) -> xr.Dataset:
    dims = ("seed", *axes)
    whole = lambda value: np.asarray(value).reshape(*shape, *np.shape(value)[1:])
    variables = {
        "time": ((*dims, "record"), whole(many.time)),
        "steps": (dims, whole(many.steps)),
        "status": (dims, whole(many.status), _STATUS),
        "remaining": (dims, whole(many.remaining)),
    }
    for path, value in jax.tree.leaves_with_path(many.observed):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        value = whole(value)
        extra = [f"{name}_{k}" for k in range(value.ndim - len(dims) - 1)]
        variables[name] = ((*dims, "record", *extra), value)
    return xr.Dataset(variables, coords={"seed": np.arange(shape[0]), **axes})


def usable(runs: xr.Dataset) -> xr.Dataset:
    """The runs at a minimum, around one, or on their way; the others are `nan`."""
    ends = (Status.CONVERGED, Status.OSCILLATING, Status.MOVING)
    return runs.where(runs.status.isin(ends))


# The convention of the CF metadata standard for numbers that stand for words.
_STATUS = {
    "flag_values": [int(status) for status in Status],
    "flag_meanings": " ".join(status.name.lower() for status in Status),
}
