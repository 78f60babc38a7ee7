"""Sweeps on disk: the same as in memory, resumed where they stopped, and no other sweep."""

import json

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import xarray as xr
import zarr

import jaxflow as jf
from jaxflow.papers._statistics import usable
from jaxflow.sweeps import sinks, specification, store, sweeps

KEY, DATA = jr.key(5), np.arange(4.0)


class Stop(Exception):
    """What ends a sweep in the middle."""


def make(data=DATA, shift=0.0, extra=False):
    """Runs whose results cost nothing, with one that is `nan` throughout."""

    def run(key, length, a):
        draws = jr.normal(key, (length,)) + jnp.sum(jnp.asarray(data)) + shift
        whole = {"x": draws + jnp.where(a == 3, jnp.nan, a), "n": jnp.asarray(length)}
        return whole | ({"more": a} if extra else {})

    return run


def go(path=None, run=None, **options):
    """3 static points, each of 5 x 7 members in 7 chunks."""
    options = {
        "key": KEY,
        "seeds": 5,
        "static": {"length": [1, 2, 3]},
        "axes": {"a": np.arange(7.0)},
        "chunk": 5,
    } | options
    return jf.sweep(run or make(), path=path, **options)


def done(path):
    return zarr.open_group(path, mode="r")["chunks/done"][:]


@pytest.fixture(scope="module")
def whole():
    return go()


@pytest.fixture
def count(monkeypatch):
    """The number of chunks that were computed, to be read at the end."""
    written, write = [], sinks.Sink.write

    def counted(self, grid, chunk, values, seconds):
        written.append(chunk)
        write(self, grid, chunk, values, seconds)

    monkeypatch.setattr(sinks.Sink, "write", counted)
    return written


@pytest.fixture
def half(tmp_path, monkeypatch):
    """A store in which 9 of 21 chunks are done, and the next is torn."""
    write, path = sinks.Sink.write, tmp_path / "runs"

    def torn(self, grid, chunk, values, seconds):
        if chunk < 9:
            return write(self, grid, chunk, values, seconds)
        self.arrays["x"][grid.region(chunk)] = 7.0
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(sinks.Sink, "write", torn)
        with pytest.raises(Stop):
            go(path)
    return path


def test_a_sweep_on_disk_is_the_one_in_memory(tmp_path, whole):
    runs = go(tmp_path / "deep" / "runs")
    xr.testing.assert_equal(runs.load(), whole)
    assert {n: v.dtype for n, v in runs.items()} == {n: v.dtype for n, v in whole.items()}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["runs"]


def test_a_sweep_on_disk_says_where_it_comes_from(tmp_path):
    attrs = go(tmp_path).attrs
    assert {"versions", "device", "commit", "created"} <= attrs.keys()
    assert json.loads(attrs["arguments"])["static"] == {"length": [1, 2, 3]}


def test_only_what_is_missing_is_computed(half, whole, count):
    xr.testing.assert_equal(go(half).load(), whole)
    assert count == list(range(9, 21))
    go(half)
    assert count == list(range(9, 21))


def test_only_loop_points_that_are_missing_are_compiled(half, monkeypatch):
    compiled, lower = [], sweeps.Program._lower

    def counted(self, size):
        compiled.append(self.shapes["x"].shape)
        return lower(self, size)

    monkeypatch.setattr(sweeps.Program, "_lower", counted)
    go(half)
    assert compiled == [(2,), (3,)]


def test_progress_says_what_was_found(half):
    said = []
    go(half, progress=said.append)
    assert said[0] == "9 of 21 chunks were found done"
    assert said[-1].startswith("21 of 21 chunks, ")


def test_a_store_can_be_read_while_it_is_written(tmp_path, problem):
    path, seen = tmp_path / "runs", []

    def run(key, scale):
        start = jf.init.gaussian((5, 5, 1), scale=scale, key=key)
        return jf.gradient_descent(problem, start, 10, step_size=0.01, every=5)

    def look(words):
        runs = jf.load(path)
        there = (runs.status != -1).sum().item()
        seen.append((there, runs.loss.notnull().sum().item()))
        assert sinks.STATUS["flag_values"][0] == -1
        assert usable(runs).loss.notnull().sum() == 3 * there

    axes = {"scale": [0.1, 0.2, 0.3]}
    jf.sweep(run, key=KEY, seeds=2, axes=axes, chunk=2, path=path, progress=look)
    assert seen == [(2, 6), (6, 18)]


def test_the_wall_time_of_chunks_is_kept(half):
    go(half)
    seconds = xr.open_dataset(half, engine="zarr", consolidated=False, group="chunks")
    assert (seconds.seconds > 0).all()


def test_a_store_keeps_its_own_chunks(tmp_path, whole, count):
    go(tmp_path)
    xr.testing.assert_equal(go(tmp_path, chunk=None).load(), whole)
    xr.testing.assert_equal(go(tmp_path, chunk=9).load(), whole)
    assert len(count) == 21


CHANGES = {
    "seeds": ({"seeds": 6}, "`seeds` is 5 there and 6 here"),
    "key": ({"key": jr.key(6)}, r"`key.data` is \[0, 5\] there and \[0, 6\] here"),
    "kind": ({"key": jr.key(5, impl="rbg")}, '`key.impl` is .*there and "rbg" here'),
    "axes": ({"axes": {"a": [1.0, 2.0]}}, r"`axes.a` is .* there and \[1.0, 2.0\] here"),
    "static": (
        {"static": {"length": [1, 2]}},
        r"`static.length` is \[1, 2, 3\] there and \[1, 2",
    ),
    "data": ({"run": make(DATA + 1e-9)}, "`code and data of run.length=1` is"),
    "number": ({"run": make(shift=1e-9)}, "`code and data of run.length=1` is"),
    "variable": ({"run": make(extra=True)}, '`variables.more` is null there and "float64'),
}


@pytest.mark.parametrize(("change", "fact"), CHANGES.values(), ids=CHANGES)
def test_another_sweep_is_refused_and_told_apart(half, change, fact):
    before = done(half)
    with pytest.raises(ValueError, match=fact):
        go(half, **change)
    assert np.array_equal(done(half), before)


def test_a_store_of_another_version_is_refused_but_loads(half, monkeypatch, whole):
    version = specification.importlib.metadata.version
    other = lambda name: "0.0.1" if name == "jax" else version(name)
    with monkeypatch.context() as patch:
        patch.setattr(specification.importlib.metadata, "version", other)
        with pytest.raises(ValueError, match=r'`versions.jax` is .* and "0.0.1" here'):
            go(half)
        assert jf.load(half).x.shape == whole.x.shape


def test_another_precision_is_refused(half):
    jax.config.update("jax_enable_x64", False)
    try:
        with pytest.raises(ValueError, match='x64` is "True" there and "False" here'):
            go(half)
    finally:
        jax.config.update("jax_enable_x64", True)


def test_a_path_that_holds_something_else_is_refused(tmp_path, whole):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(ValueError, match="not a result"):
        go(tmp_path / "thesis")
    jf.save(whole, tmp_path / "saved")
    with pytest.raises(ValueError, match="but holds another result"):
        go(tmp_path / "saved")


def test_a_finished_sweep_can_be_saved_elsewhere(tmp_path, whole):
    saved = jf.save(go(tmp_path / "runs"), tmp_path / "copy")
    xr.testing.assert_equal(jf.load(saved).load(), whole)
    with pytest.raises(ValueError, match="but holds another result"):
        go(saved)


def test_two_writers_complete_one_store(tmp_path, whole):
    inner = []

    def other(words):
        if not inner:
            inner.append(True)
            xr.testing.assert_equal(go(tmp_path / "runs").load(), whole)

    xr.testing.assert_equal(go(tmp_path / "runs", progress=other).load(), whole)
    assert inner


def test_who_makes_a_store_too_late_takes_the_one_that_is_there(
    tmp_path, monkeypatch, whole
):
    path, rename = tmp_path / "runs", store.os.rename

    def late(source, target):
        with monkeypatch.context() as patch:
            patch.setattr(store.os, "rename", rename)
            go(path)
        rename(source, target)

    monkeypatch.setattr(sinks.os, "rename", late)
    xr.testing.assert_equal(go(path).load(), whole)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_who_makes_another_sweep_too_late_is_refused(tmp_path, monkeypatch):
    path, rename = tmp_path / "runs", store.os.rename

    def late(source, target):
        with monkeypatch.context() as patch:
            patch.setattr(store.os, "rename", rename)
            go(path, seeds=2)
        rename(source, target)

    monkeypatch.setattr(sinks.os, "rename", late)
    with pytest.raises(ValueError, match="`seeds` is 2 there and 5 here"):
        go(path)


def test_a_path_that_cannot_be_written_is_said_before_anything_runs(tmp_path, count):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file/runs could not be written.* safe there: 0\."):
        go(tmp_path / "file" / "runs")
    assert not count


def test_a_failing_disk_leaves_what_is_done(half, whole, monkeypatch):
    def fail(self, grid, chunk, values, seconds):
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(sinks.Sink, "write", fail)
        with pytest.raises(OSError, match=r"Read-only .* safe there: 9\. The same call"):
            go(half)
    xr.testing.assert_equal(go(half).load(), whole)


def test_a_failing_progress_is_no_failing_disk(tmp_path):
    def closed(words):
        raise BrokenPipeError("closed")

    with pytest.raises(BrokenPipeError, match=r"^closed$"):
        go(tmp_path, progress=closed)


def test_axes_of_text_labels_survive(tmp_path):
    static = {"length": {"one": 1, "two": 2}}
    runs = go(tmp_path, static=static)
    xr.testing.assert_equal(runs.load(), go(static=static))
    assert runs.sel(length="two").n.max() == 2


def test_names_that_a_store_cannot_hold_are_refused(tmp_path, count):
    for name in ("a/b", "chunks"):
        run = lambda key, name=name: {name: jr.normal(key)}
        with pytest.raises(ValueError, match=f"there are .'{name}'"):
            jf.sweep(run, key=KEY, seeds=1, path=tmp_path / "runs")
    assert not count
