"""A run as a program: traced once for each static point, compiled for whole chunks."""

import dataclasses
import functools as ft
import math
import operator as op
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.extend.core import jaxpr_as_fun
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PRNGKeyArray

from .. import _compilation
from .._linalg.backend import on_cpu
from .._linalg.precision import full_precision
from ..dynamics import Trajectory
from . import jaxprs
from .grid import Grid, Point

OWN = ("time", "num_steps", "status", "predicted_decrease")
# Whatever a chunk costs, it must not depend on the machine: results do, in rounding.
BUDGET, MOST_MEMBERS, FEW_MEMBERS = 2**28, 256, 32


def cores() -> int:
    """The cores that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


@dataclasses.dataclass(frozen=True)
class Work:
    """All that a process needs to compute a chunk.

    Attributes:
        run: What to run.
        grid: For which members.
        keys: The data of the keys of the seeds.
        impl: The kind of those keys, if they have one.
    """

    run: Callable[..., Any]
    grid: Grid
    keys: np.ndarray
    impl: str | None

    @property
    def arguments(self) -> list[np.ndarray]:
        """What members choose from: keys, and the values of each axis."""
        arrays = [self.keys, *self.grid.axes.values()]
        canonical = jax.dtypes.canonicalize_dtype
        return [a.astype(canonical(a.dtype), copy=False) for a in arrays]

    def key(self, data: Array) -> PRNGKeyArray:
        """The key that some data stand for."""
        return data if self.impl is None else jr.wrap_key_data(data, impl=self.impl)


class Program:
    """A run at one static point, traced once.

    Attributes:
        shapes: The shape and type of each variable, for one member.
        records: Whether variables have records.
    """

    @full_precision
    def __init__(self, work: Work, point: Point):
        grid = work.grid
        fixed = grid.fixed(point)

        def call(key, *values):
            vary = dict(zip(grid.axes, values, strict=True))
            return _variables(work.run(key, **fixed, **vary), grid.dims)

        data, *values = (jnp.asarray(argument[0]) for argument in work.arguments)
        traced, shapes = jax.make_jaxpr(call, return_shape=True)(work.key(data), *values)
        consts = [_gathered(const) for const in traced.consts]
        self._spread = any(map(op.is_not, consts, traced.consts))
        self._traced = traced.replace(consts=consts)
        self._work = work
        self.shapes = shapes
        self.records = "time" in self.shapes
        self._compiled = {}

    @ft.cached_property
    def fingerprint(self) -> str:
        return jaxprs.fingerprint(self._traced)

    @property
    def most_members(self) -> int:
        """How many members are estimated to fit into the memory of a chunk."""
        # Of a batch: what it does one member after the other it needs only once.
        each = jaxprs.peak_bytes(jax.make_jaxpr(self._batch)(*self._stacks(64))) / 64
        # Small sweeps have several chunks too, for several devices.
        share = math.ceil(math.prod(self._work.grid.sides) / 8)
        return max(1, min(MOST_MEMBERS, max(FEW_MEMBERS, share), int(BUDGET / each)))

    @full_precision
    def _batch(self, *arguments):
        member = jaxpr_as_fun(self._traced)
        one = lambda data, *values: member(self._work.key(data), *values)
        return jax.vmap(one)(*arguments)

    def _stacks(self, *sizes, **options) -> list[jax.ShapeDtypeStruct]:
        shapes = ((*sizes, *a.shape[1:]) for a in self._work.arguments)
        pairs = zip(shapes, self._work.arguments, strict=True)
        return [jax.ShapeDtypeStruct(shape, a.dtype, **options) for shape, a in pairs]

    def compile(self, size: int) -> Callable[..., list[jax.Array]]:
        """The program of `size` members on each local device of this process."""
        if size not in self._compiled:
            self._compiled[size] = self._lower(size).compile(_options())
        return self._compiled[size]

    def _lower(self, size):
        mesh = Mesh(np.array(jax.local_devices()), ("chunk",))
        every = NamedSharding(mesh, PartitionSpec("chunk"))

        def chunk(*arguments):
            alone = self._batch(*(argument[0] for argument in arguments))
            return [value[None] for value in alone]

        # All that a device does is its own chunk, so that no result knows of the others.
        mapped = jax.shard_map(
            chunk,
            mesh=mesh,
            in_specs=every.spec,
            out_specs=every.spec,
            check_vma=False,
        )
        whole = self._stacks(mesh.size, size, sharding=every)
        try:
            return jax.jit(mapped).trace(*whole).lower()
        except (ValueError, TypeError, NotImplementedError) as error:
            if not self._spread:
                raise
            raise ValueError(
                "`sweep(run=...)` must hold data that fit on one device, but holds some "
                "that are sharded over several, and used as such. Pass "
                "`jax.device_get(data)`."
            ) from error

    def start(self, members: Sequence[Sequence[np.ndarray]]) -> dict[str, jax.Array]:
        """Start chunks, at most one on each local device.

        Args:
            members: For each chunk, the index of each of its members into each argument.

        Returns:
            The variables, over the devices and the members of a chunk.
        """
        idle = jax.local_device_count() - len(members)
        members = [*members, *[members[-1]] * idle]
        indices = map(np.stack, zip(*members, strict=True))
        chosen = map(op.getitem, self._work.arguments, indices)
        compiled = self.compile(len(members[0][0]))
        return dict(zip(self.shapes, compiled(*chosen), strict=True))


def _gathered(const: Any) -> Any:
    """The same data without a mesh, if they are spread over one: a chunk has its own."""
    if not isinstance(const, jax.Array) or jax.typeof(const).sharding.mesh.empty:
        return const
    if jax.dtypes.issubdtype(const.dtype, jax.dtypes.prng_key):
        data = jnp.asarray(np.asarray(jr.key_data(const)))
        return jr.wrap_key_data(data, impl=jr.key_impl(const))
    # By way of the host: `device_put` keeps the mesh in the type.
    return jnp.asarray(np.asarray(const))


def _options() -> dict[str, Any]:
    """How chunks are compiled: on a CPU, with kernels that one thread computes.

    The other devices have chunks of their own.
    """
    single = {"xla_cpu_multi_thread_eigen": False} if on_cpu() else {}
    return single | _compilation.options()


def _variables(result, taken) -> dict[str, jax.Array]:
    """What a run returned, by the names of variables."""
    if isinstance(result, Trajectory):
        own = {name: getattr(result, name) for name in OWN}
        named = result.observed
    elif isinstance(result, Mapping):
        own, named = {}, dict(result)
    else:
        raise ValueError(
            "`sweep(run=...)` must return a `Trajectory` or a mapping from names to "
            f"arrays, but returned {type(result).__name__}."
        )
    if clash := sorted({*taken, "seed", "record", *OWN} & {*named}):
        raise ValueError(f"`sweep` names {clash} itself. Rename that observable.")
    if empty := [name for name, part in named.items() if not jax.tree.leaves(part)]:
        raise ValueError(
            "`sweep(run=...)` must return arrays for every name, but has none for "
            f"{empty}. Leave them out."
        )
    path = ft.partial(jax.tree_util.keystr, simple=True, separator=".")
    found = [(path(keys), leaf) for keys, leaf in jax.tree.leaves_with_path(named)]
    names = [name for name, _ in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"`sweep(run=...)` must return observables of different names, but names parts "
            f"of several of them {twice}. Rename them."
        )
    return own | {name: _numbers(name, leaf) for name, leaf in found}


def _numbers(name: str, leaf: Any) -> jax.Array:
    """A leaf of what a run returned as an array, if it holds numbers that NumPy has."""
    try:
        array = jnp.asarray(leaf)
        kind = array.dtype.name
        known = isinstance(array.dtype, np.dtype) and array.dtype.kind in "biufc"
    except TypeError:
        known, kind = False, repr(leaf)
    if not known:
        raise ValueError(
            f"`sweep(run=...)` must return numbers of a type that NumPy has, but {name!r} "
            f"is {kind}. Cast it, as with `x.astype(jnp.float32)` or "
            "`jax.random.key_data(key)`."
        )
    return array
