"""One run at every point of a grid, with the same seeds at each."""

import contextlib
import dataclasses
import difflib
import inspect
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.random as jr
import numpy as np
import xarray as xr
from jaxtyping import PRNGKeyArray, PyTree

from ..dynamics import Trajectory
from .chunks import compute, diverged
from .grid import Grid, Point, rectangle
from .paths import local_path
from .programs import OWN, Program, Work
from .sinks import Sink, check_path, forget_damaged, in_memory, on_disk, variables
from .specification import check_same, specify, stored
from .store import holds_sweep, load


def sweep(
    run: Callable[..., Trajectory | Mapping[str, PyTree]],
    *,
    key: PRNGKeyArray,
    seeds: int,
    axes: Mapping[str, Any] | None = None,
    static: Mapping[str, Any] | None = None,
    chunk: int | None = None,
    path: str | os.PathLike[str] | None = None,
    client: Any = None,
    progress: Callable[[str], Any] | None = None,
) -> xr.Dataset:
    """Call `run(key, **point)` at every point of a grid, with the same seeds at each.

    Points can so be compared in pairs, and more seeds keep the results of the first. One
    member that fails is marked in `status` and leaves the others alone; pass
    `throw=False` to `gradient_flow`.

    The members are computed in chunks, one on each local device at a time. On a CPU every
    core becomes a device with the environment `JAX_NUM_CPU_DEVICES=cores`, before JAX
    starts; a chunk uses one thread of each.

    With a `path` each chunk is stored as soon as it is done, and `load` reads what is
    there. Should the process be killed, the disk be full or a worker be lost, then the same
    call goes on from there, and computes chunks again whose files are missing or damaged;
    results are the same, bit for bit, however often that happens and however many devices
    or workers there are. Several processes may make the same call at the same time. A path
    is of one sweep: it is refused if anything that matters for the results has changed,
    such as the data, the code of `run` or the version of JAX.

    Args:
        run: A function of a key and of the axes by name, made of JAX operations. It returns
            a `Trajectory`, or a mapping from names to arrays.
        key: Split into the seeds.
        seeds: The number of seeds.
        axes: Numbers for each argument of `run` that is vectorized, by name.
        static: Values of each argument that changes shapes or code, such as depth or
            solver. They reach `run` as they are, and compile once for each: a sequence of
            numbers or text; or a mapping from such labels to any objects.
        chunk: Members that are computed together, at most. Results depend on it in their
            last digits. Defaults to what is estimated to fit into 256 MiB, up to 256 and an
            eighth of a small grid. A store that is there keeps its own.
        path: A directory for a zarr store. Without one, results are in memory. `~` is the
            home directory; URLs are refused, and all else is taken literally.
        client: A `distributed.Client`, whose workers then compute and write the chunks.
            Needs a `path` that they all see, and `pip install 'jaxflow[dask]'`.
        progress: Called with a line of text after chunks, at most every two seconds.

    Returns:
        The observables by name, and `time`, `num_steps`, `status` and `predicted_decrease`,
        over the dimensions `seed`, the static axes, the axes, and `record` where they
        depend on time. Further dimensions are numbered after their variable; an observable
        that is a tree, such as `weights`, becomes a variable for each leaf
        (`network.weights.0`). Where static points differ in shape, the shorter are filled
        up at their ends: with infinite `time` and otherwise `nan`; integers as the
        attribute `fill` says. With a `path` it is read from disk when it is used.

    Raises:
        ValueError: If the arguments make no grid, do not fit `run`, or are not those of
            the sweep that `path` holds; if `path` holds anything else.
        OSError: If the store cannot be written.
        RuntimeError: If a member fails, as with `throw=True`; or if chunks always kill the
            worker that computes them, when all others are in the store.
    """
    path = None if path is None else local_path(path)
    axes, static = _check_axes(axes or {}), _check_static(static or {})
    _check_names(run, axes, static)
    _check_options(seeds, chunk, path, client)
    if path is not None:
        check_path(path)
        chunk = stored(path)["chunk"] if holds_sweep(path) else chunk
    work, programs = _plan(run, key, seeds, static, axes, chunk)
    arrays = variables(work.grid, programs.values())
    if path is None:
        sink = in_memory(work.grid, arrays)
        _follow(compute(work.grid, programs.__getitem__, sink), work.grid, sink, progress)
        return sink.dataset(work.grid)
    specification = specify(work, key, arrays, programs)
    with _writing(path):
        sink = on_disk(path, work.grid, arrays, specification)
        check_same(path, specification)
        damaged = forget_damaged(path, work.grid, arrays)
    if damaged and progress is not None:
        progress(f"{damaged} chunks were done but are damaged, and are computed again")
    if client is None:
        steps = compute(work.grid, programs.__getitem__, sink)
    else:
        from . import cluster

        steps = cluster.compute(client, cluster.Job(work, arrays, path.resolve()), sink)
    _follow(_resumable(steps, path, sink), work.grid, sink, progress)
    runs = load(path)
    assert isinstance(runs, xr.Dataset)
    return runs


def _plan(run, key, seeds, static, axes, chunk) -> tuple[Work, dict[Point, Program]]:
    """What to compute in chunks of which size, and the programs of all static points."""
    keys, impl = jr.split(key, seeds), None
    if jax.dtypes.issubdtype(keys.dtype, jax.dtypes.prng_key):
        keys, impl = jr.key_data(keys), str(jr.key_impl(keys))
    shape = (seeds, *map(len, axes.values()))
    # One chunk of everything, until it is known how many members fit into one.
    work = Work(run, Grid(seeds, static, axes, shape), np.asarray(keys), impl)
    programs = {point: Program(work, point) for point in work.grid.points}
    if chunk is None:
        chunk = min(program.most_members for program in programs.values())
    grid = dataclasses.replace(work.grid, sides=rectangle(shape, chunk))
    return dataclasses.replace(work, grid=grid), programs


def _follow(steps, grid, sink, progress):
    """Take all steps, and say how it goes."""
    done = found = int(np.sum(sink.done[...]))
    bad = diverged(sink.arrays)
    if progress is None:
        for _ in steps:
            pass
        return
    if found:
        progress(f"{found} of {grid.count} chunks were found done")
    members, started, said = 0, time.perf_counter(), -math.inf
    for chunk, more in steps:
        done, bad = done + 1, bad + more
        members += math.prod(part.stop - part.start for part in grid.region(chunk))
        now = time.perf_counter()
        if now - said >= 2 or done == grid.count:
            left = (grid.count - done) * (now - started) / (done - found)
            progress(
                f"{done} of {grid.count} chunks, {members / (now - started):.3g} runs/s, "
                f"{_duration(left)} left, {bad} diverged"
            )
            said = now


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _resumable(steps, path, sink):
    """The same steps; what keeps them from being written is said in full."""
    with _writing(path, sink):
        yield from steps


@contextlib.contextmanager
def _writing(path: Path, sink: Sink | None = None):
    try:
        yield
    except OSError as error:
        safe = 0 if sink is None else int(np.sum(sink.done[...]))
        raise OSError(
            error.errno,
            f"{path} could not be written ({error}). Chunks that are safe there: {safe}. "
            "The same call goes on from there",
        ) from error


def _check_axes(axes) -> dict[str, np.ndarray]:
    axes = {name: np.asarray(values) for name, values in axes.items()}
    for name, values in axes.items():
        if values.size and values.dtype.kind not in "biuf":
            raise ValueError(
                f"`sweep(axes=...)` must hold numbers, but {name!r} is {values.tolist()}. "
                "Pass it in `static`."
            )
        if values.ndim != 1 or values.size == 0 or len(np.unique(values)) < values.size:
            raise ValueError(
                f"`sweep(axes=...)` must hold one or more different values of {name!r}, "
                f"but holds {values.tolist()}."
            )
    return axes


def _check_static(static) -> dict[str, dict[Any, Any]]:
    labeled = {}
    for name, values in static.items():
        if isinstance(values, str) or not isinstance(values, Mapping | Iterable):
            raise ValueError(
                f"`sweep(static=...)` must hold several values of {name!r}, but holds "
                f"{values!r}."
            )
        mapped = isinstance(values, Mapping)
        labels = [v.item() if hasattr(v, "item") else v for v in values]
        kinds = {str if isinstance(v, str) else float for v in labels}
        if len(kinds) > 1 or not all(isinstance(v, str | int | float) for v in labels):
            raise ValueError(
                f"`sweep(static=...)` must hold numbers or text, but {name!r} holds "
                f"{labels}. Pass a mapping from labels to them."
            )
        if not labels or len(set(labels)) < len(labels):
            raise ValueError(
                f"`sweep(static=...)` must hold one or more different values of {name!r}, "
                f"but holds {labels}."
            )
        objects = values.values() if mapped else labels
        labeled[name] = dict(zip(labels, objects, strict=True))
    return labeled


def _check_names(run, axes, static):
    names = [*static, *axes]
    if both := sorted({*static} & {*axes}):
        raise ValueError(f"`sweep` must find {both} in `axes` or in `static`, not in both.")
    if clash := sorted({"seed", "record", *OWN} & {*names}):
        raise ValueError(f"`sweep` names {clash} itself. Rename that axis.")
    if odd := [name for name in names if not isinstance(name, str)]:
        raise TypeError(f"`sweep` must have texts for names of axes, but has {odd}.")
    try:
        parameters = list(inspect.signature(run).parameters.values())
    except (TypeError, ValueError):
        return  # Not every callable has one.
    first, parameters = parameters[:1], parameters[1:]
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        if first[0].kind is first[0].POSITIONAL_OR_KEYWORD and first[0].name in names:
            raise ValueError(
                f"`sweep` passes a key as {first[0].name!r}, the first argument of `run`, "
                "so that no axis can have that name. Rename that axis."
            )
        return
    parameters = [p for p in parameters if p.kind is not p.VAR_POSITIONAL]
    known = [parameter.name for parameter in parameters]
    needed = {p.name for p in parameters if p.default is p.empty}
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(
                f"`sweep(run=...)` must accept every axis, but it accepts {known} beside "
                f"the key, and not {name!r}.{hint}"
            )
    if missing := sorted(needed - {*names}):
        raise ValueError(
            f"`sweep` must have a value for every argument of `run`, but has none for "
            f"{missing}. Pass them in `axes` or `static`, or bind them with "
            "`equinox.Partial`."
        )


def _check_options(seeds, chunk, path, client):
    for name, number in (("seeds", seeds), ("chunk", chunk)):
        if number is None:
            continue
        if not isinstance(number, int | np.integer) or isinstance(number, bool):
            raise TypeError(
                f"`sweep({name}=...)` must be a whole number, but is {number!r}."
            )
        if number < 1:
            raise ValueError(f"`sweep({name}=...)` must be positive, but is {number}.")
    if client is None:
        return
    if path is None:
        raise ValueError(
            "`sweep(client=...)` needs a `path` that all workers see, where they write "
            "their results."
        )
    from . import cluster

    cluster.check_client(client)
