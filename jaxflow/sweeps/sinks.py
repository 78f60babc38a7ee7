"""Where the results of a sweep are written: arrays in memory, or in a zarr store."""

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ..dynamics import Status
from .grid import Grid
from .owned import building, check_free
from .programs import OWN, Program
from .seals import CHUNKS, check, intact, seal
from .store import holds_sweep, provenance

PENDING = -1
# The convention of the CF metadata standard for numbers that stand for words.
STATUS = {
    "flag_values": [PENDING, *map(int, Status)],
    "flag_meanings": " ".join(["pending", *(status.name.lower() for status in Status)]),
}


@dataclasses.dataclass(frozen=True)
class Variable:
    """A variable of the result: `fill` where there are no members yet, and `pad` where
    members have fewer numbers than others.
    """

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype
    fill: Any
    pad: Any
    attrs: Mapping[str, Any]


def variables(grid: Grid, programs: Iterable[Program]) -> dict[str, Variable]:
    """The variables that hold the results of all static points.

    Raises:
        ValueError: If a variable has different numbers of dimensions, or the name of one.
    """
    found = {}
    for program in programs:
        for name, shape in program.shapes.items():
            found.setdefault(name, []).append((shape, program.records))
    first = [name for name in OWN if name in found]
    made = {
        name: _variable(grid, name, found[name])
        for name in (*first, *(name for name in found if name not in OWN))
    }
    _check_dimensions(grid, made)
    return made


def _check_dimensions(grid, variables):
    """Refuse names that are those of dimensions, which xarray would take for axes."""
    numbered = {
        dim: name
        for name, variable in variables.items()
        for dim in variable.dims[len(grid.dims) :]
        if dim != "record"
    }
    for name in (*grid.dims, *variables):
        kind = "an axis" if name in grid.dims else "an observable"
        if name in numbered:
            raise ValueError(
                f"`sweep` names {name!r} a dimension of {numbered[name]!r}, but there is "
                f"{kind} of that name. Rename one of them."
            )
        if name in grid.dims and name in variables:
            raise ValueError(
                f"`sweep` must find different names, but {name!r} is an axis and an "
                "observable. Rename one of them."
            )


def _variable(grid, name, found) -> Variable:
    ranks = {(shape.ndim, records) for shape, records in found}
    if len(ranks) > 1:
        raise ValueError(
            f"`sweep(run=...)` must return {name!r} with the same number of dimensions "
            f"everywhere, but it has the shapes {[shape.shape for shape, _ in found]}. "
            "Give them different names."
        )
    ((rank, records),) = ranks
    scalar = ("num_steps", "status", "predicted_decrease") if records else ()
    own = ("record",) if records and name not in scalar else ()
    own += tuple(f"{name}_{k}" for k in range(rank - len(own)))
    largest = tuple(map(max, zip(*(shape.shape for shape, _ in found), strict=True)))
    dtype = np.result_type(*(shape.dtype for shape, _ in found))
    fill = PENDING if name in scalar[:2] else blank(dtype)
    attrs = dict(STATUS) if name == "status" and records else {}
    if dtype.kind in "iu" and not attrs:
        attrs["fill"] = fill
    pad = np.inf if name == "time" and records else fill
    return Variable((*grid.dims, *own), (*grid.shape, *largest), dtype, fill, pad, attrs)


def blank(dtype: np.dtype) -> Any:
    """What stands for no number: `nan`, the least integer, the largest without sign."""
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return int(info.min if dtype.kind == "i" else info.max)
    return False if dtype.kind == "b" else np.nan


@dataclasses.dataclass(frozen=True)
class Sink:
    """Arrays that take the results of chunks.

    Attributes:
        variables: What the arrays are.
        arrays: Everything that is written as `array[region] = values`, by name.
        done: For each chunk, whether all of it is there.
        seconds: For each chunk, the wall time of the chunks that ran together with it.
    """

    variables: Mapping[str, Variable]
    arrays: Mapping[str, Any]
    done: Any
    seconds: Any

    def write(self, grid: Grid, chunk: int, values: Mapping[str, np.ndarray], seconds):
        """Write a chunk: its variables along all dimensions, then that it is done."""
        # The status at the end: members are pending until all the rest is there.
        for name in sorted(self.variables, key=lambda name: name == "status"):
            variable, rank = self.variables[name], len(grid.shape)
            if name not in values:  # As other static points have it: here too it is done.
                self.arrays[name][grid.region(chunk)] = variable.fill
                continue
            value = values[name]
            shape = value.shape[:rank] + variable.shape[rank:]
            block = np.full(shape, variable.pad, variable.dtype)
            block[tuple(map(slice, value.shape))] = value
            self.arrays[name][grid.region(chunk)] = block
        self.seconds[chunk] = seconds
        self.done[chunk] = 1

    def dataset(self, grid: Grid) -> xr.Dataset:
        """The arrays, labeled."""
        labeled = {
            name: (variable.dims, self.arrays[name], dict(variable.attrs))
            for name, variable in self.variables.items()
        }
        return xr.Dataset(labeled, coords=grid.coords)


def in_memory(grid: Grid, variables: Mapping[str, Variable]) -> Sink:
    """Arrays in memory."""
    arrays = {
        name: np.full(variable.shape, variable.fill, variable.dtype)
        for name, variable in variables.items()
    }
    done, seconds = np.zeros(grid.count, np.int8), np.full(grid.count, np.nan)
    return Sink(variables, arrays, done, seconds)


def on_disk(
    path: Path,
    grid: Grid,
    variables: Mapping[str, Variable],
    specification: Mapping[str, Any],
) -> Sink:
    """The arrays of the sweep that a path holds; this one, if it holds none.

    Raises:
        ValueError: If the path holds something else, or a name cannot be stored.
    """
    if not holds_sweep(path):
        check_path(path)
        _check_storable({*grid.dims, *variables})
        _make(path, grid, variables, specification)
    return open_sink(path, variables)


# What is known of each chunk.
_OWN = ("done", "seconds")


def open_sink(path: Path, variables: Mapping[str, Variable]) -> Sink:
    """The arrays of a store, to be written to."""
    import zarr
    from zarr.storage import LocalStore

    group = zarr.open_group(LocalStore(path), mode="r+", use_consolidated=False)
    # Of another sweep there might be others; it is told apart by its specification.
    arrays = {name: _whole(group[name]) for name in variables if name in group}
    return Sink(variables, arrays, *(_whole(group[f"{CHUNKS}/{name}"]) for name in _OWN))


def _whole(array: Any) -> Any:
    """The same array, which leaves out no chunk: what was written is a file."""
    import zarr

    whole = {"write_empty_chunks": True}
    return zarr.Array(zarr.AsyncArray(array.metadata, array.store_path, whole))  # pyright: ignore


def forget_damaged(path: Path, grid: Grid, variables: Mapping[str, Variable]) -> int:
    """Make chunks pending that are done, but of which a file is missing or damaged.

    Returns:
        How many there were.
    """
    count = 0
    chunks = path / CHUNKS
    for chunk in range(grid.count):
        done = chunks / "done" / "c" / str(chunk)
        if not done.exists():
            continue
        place = grid.place(chunk)
        files = [done, chunks / "seconds" / "c" / str(chunk)]
        for name, variable in variables.items():
            if 0 not in variable.shape:
                own = [0] * (len(variable.shape) - len(place))
                files.append(path.joinpath(name, "c", *map(str, (*place, *own))))
        if bad := [file for file in files if not intact(file)]:
            done.unlink()
            for file in bad:
                file.unlink(missing_ok=True)
            count += 1
    return count


def check_path(path: Path):
    """Refuse a path that holds something else than a sweep that is whole.

    Raises:
        ValueError: If so.
    """
    if (path / "zarr.json").exists():
        check(path)
        if holds_sweep(path):
            return
        raise ValueError(
            f"{path} must be free or hold this sweep, but holds another result. Choose "
            "another path."
        )
    check_free(path, False, marker="zarr.json")


def _check_storable(names):
    taken = {"", ".", "..", "zarr.json", CHUNKS}
    odd = lambda name: name in taken or "/" in name or "\0" in name
    if bad := sorted(name for name in names if odd(name) or len(name.encode()) > 255):
        raise ValueError(
            "`sweep(path=...)` stores variables in directories of their names, without '/' "
            f"and other than '.', '..', 'zarr.json' and {CHUNKS!r}, but there are {bad}. "
            "Rename them."
        )


def _make(path, grid, variables, specification):
    """Make a store in which nothing is done, whole or not at all."""
    arguments = {name: specification[name] for name in ("seeds", "static", "axes", "chunk")}
    attributes = {
        "specification": json.dumps(specification),
        **provenance("sweep", arguments),
    }
    loops = len(grid.static)
    sweep = {"variables": [*variables], "counts": grid.counts, "loops": loops}
    with building(path) as part:
        _write_template(part, grid, variables, attributes)
        seal(part, sweep)
        try:
            os.rename(part, path)
        except OSError:
            # Another writer was first: what it made is as good.
            if not holds_sweep(path):
                raise


def _write_template(part, grid, variables, attributes):
    import zarr
    from zarr.codecs import BloscCodec, Crc32cCodec
    from zarr.storage import LocalStore

    # A third smaller than with zarr's default, and three times as fast.
    fast, summed = BloscCodec(cname="lz4", shuffle="shuffle"), Crc32cCodec()
    root = zarr.create_group(LocalStore(part), attributes=attributes)
    if (part / "ZARR.JSON").exists():
        _check_case([*grid.coords, *variables])
    for name, values in grid.coords.items():
        text = values.dtype.kind == "T"
        array = root.create_array(
            name,
            shape=values.shape,
            dtype=str if text else values.dtype,
            compressors=(fast, summed),
            dimension_names=(name,),
            config={"write_empty_chunks": True},
        )
        array[:] = values
    for name, variable in variables.items():
        root.create_array(
            name,
            shape=variable.shape,
            dtype=variable.dtype,
            # A chunk of the sweep is one of the store: no two writers share a file.
            chunks=(
                *grid.chunk_shape,
                *(max(1, n) for n in variable.shape[len(grid.shape) :]),
            ),
            fill_value=variable.fill,
            compressors=(fast, summed),
            dimension_names=variable.dims,
            attributes=dict(variable.attrs),
        )
    chunks = root.create_group(CHUNKS)
    for name, dtype, fill in zip(_OWN, ("int8", "float64"), (0, np.nan), strict=True):
        chunks.create_array(
            name,
            shape=(grid.count,),
            dtype=dtype,
            chunks=(1,),
            fill_value=fill,
            compressors=(summed,),
            dimension_names=("chunk",),
        )


def _check_case(names):
    """Refuse names that are one, on a disk that does not tell cases apart."""
    folded = [name.casefold() for name in names]
    if same := [name for name in names if folded.count(name.casefold()) > 1]:
        raise ValueError(
            "`sweep(path=...)` needs names that differ by more than case on this disk, but "
            f"there are {same}. Rename them."
        )
