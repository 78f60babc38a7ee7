"""Chunks: they cover all members once, are as even as can be, and all of one size."""

import itertools as it

import numpy as np
import pytest

from jaxflow.sweeps.grid import Grid, rectangle


@pytest.mark.parametrize(
    ("shape", "members", "sides"),
    [
        ((8,), 8, (8,)),
        ((8,), 7, (4,)),
        ((9,), 4, (3,)),
        ((5, 3, 4), 1, (1, 1, 1)),
        ((5, 3, 4), 5, (5, 1, 1)),
        ((5, 3, 4), 15, (5, 1, 2)),
        ((5, 3, 4), 20, (5, 1, 4)),
        ((5, 3, 4), 45, (5, 2, 4)),
        ((5, 3, 4), 1000, (5, 3, 4)),
    ],
)
def test_chunks_take_seeds_first_then_axes_from_the_last_in_even_parts(
    shape, members, sides
):
    assert rectangle(shape, members) == sides


@pytest.mark.parametrize("members", [1, 2, 3, 4, 7, 20, 1000])
def test_chunks_cover_every_member_once_and_have_one_size(members):
    axes = {"a": np.arange(3.0), "b": np.arange(4.0)}
    static = {"depth": {2: 2, 3: 3}, "solver": {"x": object(), "y": object()}}
    grid = Grid(5, static, axes, rectangle((5, 3, 4), members))
    count = np.zeros(grid.shape, int)
    for chunk in range(grid.count):
        indices = grid.members(chunk)
        assert {len(index) for index in indices} == {np.prod(grid.sides)}
        assert np.prod(grid.sides) <= members
        region = grid.region(chunk)
        count[region] += 1
        # What is computed for the members of a region is what belongs there.
        for index, name in zip(indices, ("seed", "a", "b"), strict=True):
            k = grid.dims.index(name)
            wanted = np.arange(count.shape[k])[region[k]]
            found = np.moveaxis(grid.inside(chunk, index), k, -1)
            assert (found == wanted).all()
    assert (count == 1).all()


def test_chunks_of_a_loop_point_follow_each_other():
    axes = {"a": np.arange(3.0)}
    grid = Grid(5, {"depth": {2: 2, 3: 3}}, axes, (2, 1))
    points = [grid.point(chunk) for chunk in range(grid.count)]
    assert [point for point, _ in it.groupby(points)] == grid.points


def test_a_chunk_is_described_by_its_values():
    axes = {"a": np.array([0.5, 1.5, 2.5])}
    grid = Grid(5, {"solver": {"euler": 0}}, axes, (5, 1))
    assert grid.describe(2) == "chunk 2: seed=0...4 solver=euler a=2.5"
