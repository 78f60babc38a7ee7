"""What a path means: the same for all that write, read or resume."""

import pathlib

import jax.random as jr
import numpy as np
import pytest
import xarray as xr

import jaxflow as jf
from jaxflow.papers.data import load_classes, load_data, load_samples
from jaxflow.report import draw, write
from jaxflow.stored import read
from jaxflow.sweeps.paths import local_path

RUNS = xr.Dataset({"loss": ("seed", np.arange(3.0))})


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A home, and a directory to work in beside it."""
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def sweep(path):
    run = lambda key, scale: {"loss": scale * jr.normal(key)}
    return jf.sweep(run, key=jr.key(0), seeds=2, axes={"scale": [1.0]}, path=path)


MEANINGS = {
    "~/runs": "home/runs",
    "~/deep/er/runs": "home/deep/er/runs",
    "my runs/été #1 100%/r?": "work/my runs/été #1 100%/r?",
    "exp::lr=0.1": "work/exp::lr=0.1",
    "lr::1": "work/lr::1",
    "2026-01-02T10:00/r": "work/2026-01-02T10:00/r",
    "trailing/": "work/trailing",
    "./nowhere/../b": "work/b",
    "../b": "b",
    "$HOME/*": "work/$HOME/*",
    "./s3:/bucket": "work/s3:/bucket",
}


@pytest.mark.parametrize("kind", [str, pathlib.Path])
@pytest.mark.parametrize(("path", "place"), MEANINGS.items(), ids=MEANINGS)
def test_a_path_means_the_same_to_all(here, path, place, kind):
    if path.startswith("./s3:") and kind is pathlib.Path:
        path = here / "work" / path
    path = kind(path)
    saved = jf.save(RUNS, path)
    assert (here / place / "zarr.json").is_file()
    xr.testing.assert_equal(jf.load(path).load(), RUNS)
    xr.testing.assert_equal(jf.load(saved).load(), RUNS)
    jf.save(2 * RUNS, path, overwrite=True)
    made = {found.name for found in (here / place).parent.iterdir()} - {"home", "work"}
    assert made == {(here / place).name}


@pytest.mark.parametrize("path", ["~/runs", "lr::1", "./s3:/bucket", "./nowhere/../b"])
def test_a_sweep_is_resumed_and_drawn_where_it_was_stored(here, path):
    found = sweep(path).load()
    assert (here / MEANINGS[path] / "zarr.json").is_file()
    xr.testing.assert_equal(sweep(path).load(), found)
    xr.testing.assert_equal(jf.load(path).load(), found)
    draw(read(path), f"{path}.figures", False)
    write(read(path), f"{path}.html", False)
    assert (here / f"{MEANINGS[path]}.figures" / "values.png").is_file()
    assert (here / f"{MEANINGS[path]}.html").is_file()


URLS = ["s3://bucket/runs", "gs://b/x", "memory://m", "file:///tmp/x", "https://a.b/c.csv"]
USES = {
    "save": lambda path: jf.save(RUNS, path),
    "load": jf.load,
    "sweep": sweep,
    "read": read,
    "load_data": lambda path: load_data(path, target="y"),
    "load_samples": load_samples,
    "load_classes": lambda path: load_classes(path, labels=path),
}
ODD = {
    **dict.fromkeys([*URLS, "simplecache::s3://bucket/x"], "is a URL"),
    "~nobody-of-this-name/x": "must be a path, but",
    "a\0b": "null character",
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize(("path", "fact"), ODD.items(), ids=map(repr, ODD))
def test_what_is_no_path_here_is_refused_by_all(here, path, fact, use):
    with pytest.raises(ValueError, match=fact):
        use(path)
    assert not list((here / "work").iterdir())


@pytest.mark.parametrize("url", URLS)
def test_a_url_is_one_whatever_made_a_path_of_it(url):
    with pytest.raises(ValueError, match="is a URL"):
        local_path(pathlib.Path(url))


class Bytes:
    def __fspath__(self):
        return b"runs"


def test_bytes_are_no_path():
    with pytest.raises(TypeError, match="must be text"):
        local_path(Bytes())  # pyright: ignore


@pytest.mark.parametrize("kind", [str, pathlib.Path])
def test_data_are_found_at_home(here, kind):
    (here / "home" / "table.csv").write_text("a,y\n1,2\n2,5\n3,1\n")
    assert load_data(kind("~/table.csv"), target="y").x.shape == (3, 1)
    np.save(here / "home" / "x.npy", np.eye(4))
    np.save(here / "home" / "y.npy", np.array([0, 1, 0, 1]))
    assert load_samples(kind("~/x.npy")).x.shape == (4, 4)
    assert load_classes(kind("~/x.npy"), labels=kind("~/y.npy")).x.shape == (4, 5)


def test_a_link_is_followed(here):
    (here / "disk").mkdir()
    (here / "work" / "runs").symlink_to(here / "disk" / "runs")
    for factor in (1, 2):
        jf.save(factor * RUNS, "runs", overwrite=True)
        assert (here / "disk" / "runs" / "zarr.json").is_file()
        assert [p.name for p in (here / "disk").iterdir()] == ["runs"]
        xr.testing.assert_equal(jf.load("runs").load(), factor * RUNS)
