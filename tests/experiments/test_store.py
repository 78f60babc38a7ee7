"""Results on disk: whole or not at all, and never in the place of something else."""

import numpy as np
import pytest
import xarray as xr

import jaxflow as jf


def dataset(value=1.0):
    """Runs as a sweep returns them, with one that diverged."""
    values = value * np.arange(6.0).reshape(2, 3)
    values[1, 2] = np.nan
    return xr.Dataset(
        {
            "loss": (("seed", "record"), values),
            "time": (("seed", "record"), [[0.0, 0.1, 0.2], [0.0, 0.1, np.inf]]),
            "steps": ("seed", [0, 3]),
            "status": ("seed", np.array([1, 4], np.int32), {"flag_values": [1, 4]}),
        },
        coords={"seed": [0, 1], "scale": 0.3},
        attrs={"depth": 3, "note": "Λ ≥ λ", "bound": 1.5, "none": float("nan")},
    )


def tree(value=1.0):
    branches = {"gaussian": dataset(value), "residual": dataset(2 * value)}
    return xr.DataTree.from_dict(branches | {"/": xr.Dataset(attrs={"width": 5})})


RESULTS = {"dataset": dataset, "tree": tree}
result = pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS.keys())


def files(directory):
    """What is in a directory, with its content."""
    paths = sorted(p for p in directory.rglob("*") if p.is_file())
    return {str(p.relative_to(directory)): p.read_bytes() for p in paths}


@result
def test_a_loaded_result_is_the_one_that_was_saved(tmp_path, result):
    loaded = jf.load(jf.save(result(), tmp_path / "deep" / "down"))
    assert type(loaded) is type(result())
    xr.testing.assert_identical(loaded.load(), result())


@result
def test_a_loaded_result_has_the_types_of_the_one_that_was_saved(tmp_path, result):
    loaded = jf.load(jf.save(result(), tmp_path / "runs"))
    branch, saved = (t if result is dataset else t["gaussian"] for t in (loaded, result()))
    assert {n: v.dtype for n, v in branch.items()} == {n: v.dtype for n, v in saved.items()}


def test_a_loaded_result_can_be_saved_where_it_came_from(tmp_path):
    path = jf.save(dataset(), tmp_path / "runs")
    jf.save(jf.load(path).assign_attrs(depth=4), path, overwrite=True)
    xr.testing.assert_identical(jf.load(path).load(), dataset().assign_attrs(depth=4))


def test_an_empty_directory_is_free(tmp_path):
    jf.save(dataset(), tmp_path)
    xr.testing.assert_identical(jf.load(tmp_path).load(), dataset())


def test_the_current_directory_is_a_path_like_any_other(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    jf.save(dataset(), ".")
    xr.testing.assert_identical(jf.load(tmp_path / "here").load(), dataset())


def test_saving_leaves_nothing_else(tmp_path):
    for value in (1.0, 2.0):
        jf.save(dataset(value), tmp_path / "runs", overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["runs"]


def test_another_result_is_not_overwritten_unasked(tmp_path):
    jf.save(dataset(), tmp_path / "runs")
    before = files(tmp_path)
    with pytest.raises(ValueError, match="runs must be free, but holds another result"):
        jf.save(dataset(2.0), tmp_path / "runs")
    assert files(tmp_path) == before


def test_another_result_is_overwritten_when_asked(tmp_path):
    jf.save(tree(), tmp_path / "runs")
    jf.save(dataset(2.0), tmp_path / "runs", overwrite=True)
    xr.testing.assert_identical(jf.load(tmp_path / "runs").load(), dataset(2.0))


@pytest.mark.parametrize(
    "name", ["thesis", "thesis/chapter.txt"], ids=["directory", "file"]
)
def test_what_is_no_result_is_never_overwritten(tmp_path, name):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(ValueError, match="not a result"):
        jf.save(dataset(), tmp_path / name, overwrite=True)
    assert files(tmp_path) == {"thesis/chapter.txt": b"years of work"}


@pytest.mark.parametrize("fails", ["to_zarr", "rename"])
def test_a_write_that_fails_leaves_the_old_result(tmp_path, monkeypatch, fails):
    path = jf.save(dataset(), tmp_path / "runs")
    before = files(tmp_path)

    def write_half(self, store, **options):
        del self, options
        store.mkdir()
        (store / "half").write_text("")
        raise OSError("disk full")

    def rename(source, target):
        if str(source).endswith(".part"):
            raise OSError("disk full")
        source.replace(target)

    if fails == "to_zarr":
        monkeypatch.setattr(xr.Dataset, "to_zarr", write_half)
    else:
        monkeypatch.setattr("jaxflow.experiments.store.os.rename", rename)
    with pytest.raises(OSError, match="disk full"):
        jf.save(dataset(2.0), path, overwrite=True)
    assert files(tmp_path) == before


def test_there_is_nothing_to_load_where_nothing_was_saved(tmp_path):
    with pytest.raises(ValueError, match="stored result at .*runs, but there is none"):
        jf.load(tmp_path / "runs")
