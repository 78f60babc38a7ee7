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
            "status": ("seed", np.array([0, 4], np.int32), {"flag_values": [0, 4]}),
        },
        coords={"seed": [0, 1], "scale": 0.3},
        attrs={"depth": 3, "note": "Λ ≥ λ", "bound": 1.5, "none": float("nan")},
    )


def tree():
    branches = {"gaussian": dataset(), "residual": dataset(2.0)}
    return xr.DataTree.from_dict(branches | {"/": xr.Dataset(attrs={"width": 5})})


def files(directory):
    """What is in a directory, with its content."""
    paths = sorted(p for p in directory.rglob("*") if p.is_file())
    return {str(p.relative_to(directory)): p.read_bytes() for p in paths}


@pytest.mark.parametrize("result", [dataset(), tree()], ids=["dataset", "tree"])
def test_a_loaded_result_is_the_one_that_was_saved(tmp_path, result):
    loaded = jf.load(jf.save(result, tmp_path / "deep" / "down"))
    xr.testing.assert_identical(loaded.load(), result)


def test_a_loaded_result_has_the_types_of_the_one_that_was_saved(tmp_path):
    loaded, saved = jf.load(jf.save(dataset(), tmp_path / "runs")), dataset()
    assert {n: v.dtype for n, v in loaded.items()} == {n: v.dtype for n, v in saved.items()}


def test_texts_are_saved_whatever_their_length(tmp_path):
    """Of fixed length zarr would warn, which here is an error."""
    runs = dataset().assign_coords(seed=np.array(["one", "several"]))
    runs = runs.assign(note=("record", np.array(["a", "bc", "def"])), kind=np.str_("all"))
    loaded = jf.load(jf.save(xr.DataTree.from_dict({"part": runs}), tmp_path / "runs"))
    xr.testing.assert_equal(loaded["part"].to_dataset().load(), runs)


def test_a_loaded_result_can_be_saved_where_it_came_from(tmp_path):
    path = jf.save(dataset(), tmp_path / "runs")
    jf.save(jf.load(path).assign_attrs(depth=4), path, overwrite=True)
    xr.testing.assert_identical(jf.load(path).load(), dataset().assign_attrs(depth=4))


@pytest.mark.parametrize("path", [".", ".."])
def test_the_current_directory_is_not_replaced(tmp_path, monkeypatch, path):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(ValueError, match="must not hold the current directory"):
        jf.save(dataset(), path)


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
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


@pytest.mark.parametrize(
    "name", ["thesis", "thesis/chapter.txt"], ids=["directory", "file"]
)
def test_what_is_no_result_is_never_overwritten(tmp_path, name):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(ValueError, match="not a result"):
        jf.save(dataset(), tmp_path / name, overwrite=True)
    assert files(tmp_path) == {"thesis/chapter.txt": b"years of work"}


def write_half(self, store, **options):
    del self, options
    store.mkdir()
    (store / "half").write_text("")
    raise OSError("disk full")


def move_all_but_the_new(source, target):
    if str(source).endswith(".part"):
        raise OSError("disk full")
    source.replace(target)


@pytest.mark.parametrize(
    ("name", "failing"),
    [
        ("xarray.Dataset.to_zarr", write_half),
        ("jaxflow.experiments.store.os.rename", move_all_but_the_new),
    ],
    ids=["writing", "moving"],
)
def test_a_write_that_fails_leaves_the_old_result(tmp_path, monkeypatch, name, failing):
    path = jf.save(dataset(), tmp_path / "runs")
    before = files(tmp_path)
    monkeypatch.setattr(name, failing)
    with pytest.raises(OSError, match="disk full"):
        jf.save(dataset(2.0), path, overwrite=True)
    assert files(tmp_path) == before


def test_there_is_nothing_to_load_where_nothing_was_saved(tmp_path):
    with pytest.raises(ValueError, match="must be a stored result"):
        jf.load(tmp_path / "runs")
