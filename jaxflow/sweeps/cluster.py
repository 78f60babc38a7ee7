"""The chunks of a sweep on the workers of a Dask cluster."""

import dataclasses
import errno
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .chunks import compute as compute_here, diverged, groups
from .grid import Point
from .programs import Program, Work
from .sinks import Sink, Variable, open_sink
from .specification import CODE, SETTINGS, check_same, machine, stored
from .store import holds_sweep


@dataclasses.dataclass(frozen=True)
class Job:
    """What workers compute, and where they write it."""

    work: Work
    variables: Mapping[str, Variable]
    path: Path


def check_client(client: Any):
    """Refuse what does not lead to workers.

    Raises:
        ValueError: If so.
        ImportError: If Dask is not installed.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise ImportError(
            "`sweep(client=...)` needs Dask: `pip install 'jaxflow[dask]'`."
        ) from error
    if not isinstance(client, Client):
        raise ValueError(
            "`sweep(client=...)` must be a `distributed.Client`, but is "
            f"{type(client).__name__}. Pass `distributed.Client(address)`."
        )


def compute(client: Any, job: Job, sink: Sink) -> Iterator[tuple[int, int]]:
    """Compute all chunks that are not done yet on the workers, which write them.

    Yields:
        Each chunk when it is written, and how many of its members diverged.

    Raises:
        RuntimeError: If chunks killed every worker that took them, after all others.
    """
    import cloudpickle
    from distributed import KilledWorker, as_completed

    grid, done = job.work.grid, np.asarray(sink.done[...])
    data = cloudpickle.dumps(job)
    settings = {name: getattr(jax.config, name) for name in SETTINGS}
    specified = json.dumps([str(job.path), stored(job.path)])
    name = hashlib.sha256(specified.encode()).hexdigest()
    # A future, so that data that `run` holds reach every worker once.
    held = client.submit(bytes, data, pure=False)
    submit = lambda chunks: client.submit(
        _work, name, held, settings, chunks, pure=False, retries=2
    )
    left = [chunk for chunk in range(grid.count) if not done[chunk]]
    sizes = client.run(jax.local_device_count, on_error="ignore").values()
    size = max(sizes, default=1)
    running = {submit(chunks): chunks for chunks in groups(left, grid.point, size)}
    suspects, lost = [], []
    try:
        for future in as_completed(list(running)):
            chunks = running.pop(future)
            try:
                yield from future.result()
            except KilledWorker:
                suspects += chunks
        # With nothing beside it, only the guilty can have killed the worker.
        for chunk in suspects:
            held = client.submit(bytes, data, pure=False)
            future = submit([chunk])
            running[future] = [chunk]
            try:
                yield from future.result()
            except KilledWorker:
                lost.append(chunk)
            del running[future]
    finally:
        client.cancel(list(running))
    if lost:
        raise RuntimeError(
            f"{len(lost)} of {grid.count} chunks killed every worker that took them, and "
            f"all others are in {job.path}: {'; '.join(map(grid.describe, lost))}. Give "
            "the workers more memory, or try one point alone."
        )


class _Loaded:
    """A job in a worker: every task would bring new functions, and compile them anew."""

    def __init__(self, job: Job):
        if not holds_sweep(job.path):
            raise OSError(errno.ENOENT, f"There is no store at {job.path} on the worker")
        self.job, self.specification = job, stored(job.path)
        self.programs: dict[Point, Program] = {}

    def program(self, point: Point) -> Program:
        if point not in self.programs:
            program = Program(self.job.work, point)
            # Another machine may have other libraries, or another version of `run`.
            code = {self.job.work.grid.label(point): program.fingerprint}
            mine = machine() | {CODE: self.specification[CODE] | code}
            check_same(self.job.path, self.specification | mine)
            self.programs[point] = program
        return self.programs[point]


_loaded: dict[str, _Loaded] = {}
_lock = threading.Lock()


def _work(
    name: str, data: bytes, settings: Mapping[str, Any], chunks: list[int]
) -> list[tuple[int, int]]:
    """Compute chunks in a worker, and write them."""
    import cloudpickle

    # One program at a time has the devices; and settings are of the whole process.
    with _lock:
        for setting, value in settings.items():
            jax.config.update(setting, value)
        if name not in _loaded:
            # Only now: arrays in what is loaded have the precision of the settings.
            _loaded[name] = _Loaded(cloudpickle.loads(data))
            for old in list(_loaded)[:-4]:
                del _loaded[old]
        loaded = _loaded[name]
        grid = loaded.job.work.grid
        sink = open_sink(loaded.job.path, loaded.job.variables)
        for _ in compute_here(grid, loaded.program, sink, chunks):
            pass
    return [(chunk, diverged(sink.arrays, grid.region(chunk))) for chunk in chunks]
