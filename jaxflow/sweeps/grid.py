"""The points of a sweep, and the chunks of them that are computed and stored together."""

import dataclasses
import itertools as it
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

Point = tuple[int, ...]


def rectangle(shape: tuple[int, ...], members: int) -> tuple[int, ...]:
    """How many members a chunk has along the seeds and each axis, at most `members`.

    Seeds come first, then axes from the last to the first; what is cut is cut evenly.
    """
    sides = []
    for length in (shape[0], *reversed(shape[1:])):
        pieces = math.ceil(length / members)
        sides.append(math.ceil(length / pieces))
        members = max(1, members // sides[-1])
    return (sides[0], *reversed(sides[1:]))


@dataclasses.dataclass(frozen=True)
class Grid:
    """Seeds x static axes x vectorized axes, cut into chunks that are numbered from 0.

    Attributes:
        seeds: The number of seeds.
        static: For each static axis its objects by label. One combination is a static
            point.
        axes: The values of each vectorized axis.
        sides: Members of a chunk along the seeds and each axis. Chunks at the far ends
            have fewer; those are computed with their last members repeated, so that all
            chunks run the same program.
    """

    seeds: int
    static: Mapping[str, Mapping[Any, Any]]
    axes: Mapping[str, np.ndarray]
    sides: tuple[int, ...]

    @property
    def dims(self) -> tuple[str, ...]:
        return ("seed", *self.static, *self.axes)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.seeds, *self._loop_shape, *map(len, self.axes.values()))

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Sides of a chunk along all dimensions: one static point has several chunks."""
        return (self.sides[0], *(1 for _ in self.static), *self.sides[1:])

    @property
    def coords(self) -> dict[str, np.ndarray]:
        labels = {name: coordinate(values) for name, values in self.static.items()}
        return {"seed": np.arange(self.seeds), **labels, **self.axes}

    @property
    def points(self) -> list[Point]:
        """Where each static point is along the static axes."""
        return list(it.product(*map(range, self._loop_shape)))

    @property
    def count(self) -> int:
        """The number of chunks."""
        return math.prod(self._counts)

    @property
    def counts(self) -> tuple[int, ...]:
        """The numbers of chunks along all dimensions."""
        return self._along_dims(self._counts)

    def fixed(self, point: Point) -> dict[str, Any]:
        """The values of the static axes at a static point."""
        pairs = zip(self.static.items(), point, strict=True)
        return {name: list(values.values())[k] for (name, values), k in pairs}

    def label(self, point: Point) -> str:
        """A static point in words."""
        pairs = zip(self.static.items(), point, strict=True)
        words = [f"{name}={list(values)[k]}" for (name, values), k in pairs]
        return ", ".join(words) or "all points"

    def point(self, chunk: int) -> Point:
        """The static point of a chunk."""
        return self._place(chunk)[: len(self.static)]

    def place(self, chunk: int) -> tuple[int, ...]:
        """Where a chunk is among the chunks, along all dimensions."""
        return self._along_dims(self._place(chunk))

    def region(self, chunk: int) -> tuple[slice, ...]:
        """Where a chunk is, along all dimensions."""
        loops = tuple(slice(k, k + 1) for k in self.point(chunk))
        seeds, *axes = self._spans(chunk)
        return (seeds, *loops, *axes)

    def members(self, chunk: int) -> list[np.ndarray]:
        """For each member, its seed and where it is along each axis."""
        indices = [
            np.minimum(np.arange(span.start, span.start + side), span.stop - 1)
            for span, side in zip(self._spans(chunk), self.sides, strict=True)
        ]
        return [grid.ravel() for grid in np.meshgrid(*indices, indexing="ij")]

    def inside(self, chunk: int, values: np.ndarray) -> np.ndarray:
        """Values over the members of a chunk, along all dimensions and without repeats."""
        here = tuple(slice(part.stop - part.start) for part in self.region(chunk))
        return values.reshape(*self.chunk_shape, *values.shape[1:])[here]

    def describe(self, chunk: int) -> str:
        """A chunk in words: its number, and its first and last values."""
        ends = [f"chunk {chunk}:"]
        for (name, values), span in zip(
            self.coords.items(), self.region(chunk), strict=True
        ):
            first, last = values[span][0], values[span][-1]
            ends.append(f"{name}={first}" + (f"...{last}" if last != first else ""))
        return " ".join(ends)

    @property
    def _loop_shape(self):
        return tuple(map(len, self.static.values()))

    @property
    def _counts(self):
        """Numbers of chunks along the static axes, the seeds and the axes."""
        lengths = (self.seeds, *map(len, self.axes.values()))
        cuts = zip(lengths, self.sides, strict=True)
        return (*self._loop_shape, *(math.ceil(length / side) for length, side in cuts))

    def _along_dims(self, each):
        """What is of the static axes, the seeds and the axes, in dimension order."""
        loops = len(self.static)
        return (each[loops], *each[:loops], *each[loops + 1 :])

    def _place(self, chunk):
        return tuple(map(int, np.unravel_index(chunk, self._counts)))

    def _spans(self, chunk):
        """Where a chunk is along the seeds and the axes."""
        lengths = (self.seeds, *map(len, self.axes.values()))
        place = self._place(chunk)[len(self.static) :]
        return [
            slice(k * side, min((k + 1) * side, length))
            for k, side, length in zip(place, self.sides, lengths, strict=True)
        ]


def coordinate(labels: Mapping[Any, Any]) -> np.ndarray:
    """Labels as a coordinate; text of any length, as zarr stores it."""
    values = list(labels)
    text = isinstance(values[0], str)
    return np.array(values, np.dtypes.StringDType()) if text else np.array(values)
