"""Computing chunks on the devices of this process, and writing them."""

import contextlib
import itertools as it
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from ..dynamics import Status
from .grid import Grid, Point
from .programs import Program
from .sinks import Sink


def compute(
    grid: Grid,
    program: Callable[[Point], Program],
    sink: Sink,
    chunks: Iterable[int] | None = None,
) -> Iterator[tuple[int, int]]:
    """Compute chunks on the devices of this process, and write them.

    Args:
        grid: What the chunks are.
        program: The program of a static point.
        sink: Where to write.
        chunks: Which chunks, if not all. Those that are done are left out.

    Yields:
        Each chunk when it is written, and how many of its members diverged.

    Raises:
        RuntimeError: If a member fails while it runs.
    """
    chunks = range(grid.count) if chunks is None else chunks
    left = (chunk for chunk in chunks if not sink.done[chunk])
    for group in groups(left, grid.point, jax.local_device_count()):
        runs = program(grid.point(group[0]))
        runs.compile(math.prod(grid.sides))
        with _devices_are_ours, _named(grid, group):
            started = time.perf_counter()
            values = jax.block_until_ready(runs.start([grid.members(k) for k in group]))
        seconds = time.perf_counter() - started
        values = {name: np.asarray(value) for name, value in values.items()}
        for k, chunk in enumerate(group):
            part = {name: grid.inside(chunk, v[k]) for name, v in values.items()}
            sink.write(grid, chunk, part, seconds)
            yield chunk, diverged(part)


# Sweeps in several threads compile and write at the same time, but take turns to compute.
_devices_are_ours = threading.Lock()


@contextlib.contextmanager
def _named(grid, group):
    """Say which chunks are at fault."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        raise RuntimeError(
            f"A member failed in {'; '.join(map(grid.describe, group))}. Let it be marked "
            "in `status`, with `throw=False` in `gradient_flow`, or try it alone."
        ) from error


def groups(
    chunks: Iterable[int], point: Callable[[int], Point], size: int
) -> Iterator[list[int]]:
    """Chunks to run together: of one static point, and at most `size` of them."""
    for _, together in it.groupby(chunks, point):
        while group := list(it.islice(together, size)):
            yield group


def diverged(arrays: Mapping[str, Any], region: Any = ...) -> int:
    """How many members have diverged, or those in a region."""
    status = arrays.get("status")
    return 0 if status is None else int(np.sum(status[region] == Status.DIVERGED))
