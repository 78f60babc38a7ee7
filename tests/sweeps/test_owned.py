"""Nothing is replaced or deleted that this program did not write and mark."""

import json

import numpy as np
import pytest
import xarray as xr

import jaxflow as jf
from jaxflow.report import draw, write
from jaxflow.stored import read
from jaxflow.sweeps.owned import remove, stamp

RUNS = xr.Dataset({"loss": ("seed", np.arange(3.0))})


def files(directory):
    """What is in a directory, with its content."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


def save(out):
    jf.save(2 * RUNS, out, overwrite=True)


def show(out):
    draw(read(out.with_name("source")), out, True)


def begun(out):
    out.mkdir()
    stamp(out / "unfinished.json", {"request": {}}, ["sweeps"])
    (out / "sweeps").mkdir()
    jf.save(RUNS, out / "sweeps" / "flow")


# How something is made at a path, and what then takes its place.
MAKERS = {
    "store": (lambda out: jf.save(RUNS, out), save),
    "figures": (show, show),
    "unfinished": (begun, lambda out: remove(out, marker="unfinished.json")),
}
makers = pytest.mark.parametrize(("make", "again"), MAKERS.values(), ids=MAKERS)


@pytest.fixture
def out(tmp_path):
    jf.save(RUNS, tmp_path / "source")
    return tmp_path / "out"


@makers
def test_what_we_wrote_is_replaced_or_deleted(out, make, again):
    make(out)
    before = files(out)
    again(out)
    assert files(out) != before or again is show
    assert {path.name for path in out.parent.iterdir()} <= {"out", "source"}


@makers
@pytest.mark.parametrize(
    "name", ["notes.txt", ".notes", "c", "deep/notes.txt", "loss.txt", "sweeps/notes.txt"]
)
def test_a_file_of_somebody_else_in_it_keeps_it_all(out, make, again, name):
    make(out)
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("years of work")
    before = files(out)
    try:
        again(out)
    except ValueError as error:
        assert "is not a result of jaxflow" in str(error)  # noqa: PT017
    assert files(out) == before


def other_zarr(out):
    RUNS.to_zarr(out, consolidated=False)


def nothing_of_json(out):
    out.mkdir()
    for name in ("zarr.json", "provenance.json", "unfinished.json", "run.json"):
        (out / name).write_text("")


def json_of_others(out):
    out.mkdir()
    facts = {"jaxflow": "0.1", "experiment": "flow", "attributes": {"jaxflow": []}}
    for name in ("zarr.json", "provenance.json", "unfinished.json", "run.json"):
        (out / name).write_text(json.dumps(facts))


OTHERS = {
    "zarr of others": other_zarr,
    "empty files": nothing_of_json,
    "files of others": json_of_others,
    "a file": lambda out: out.write_text("years of work"),
}


@makers
@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_what_has_no_mark_is_left(out, make, again, other):
    del make
    other(out)
    before = files(out.parent)
    try:
        again(out)
    except ValueError as error:
        assert "is not a result of jaxflow" in str(error)  # noqa: PT017
    assert files(out.parent) == before


def test_what_a_killed_process_left_is_ours(out):
    begun(out)
    for name in ("sweeps/flow.0123abcd.part", "sweeps/flow.0123abcd.old"):
        (out / name).mkdir()
        (out / name / "zarr.json").write_text("{")
    remove(out, marker="unfinished.json")
    assert not out.exists()


def test_a_link_is_deleted_and_not_what_it_leads_to(out):
    begun(out)
    (out / "sweeps" / "flow").rename(out.parent / "elsewhere")
    (out / "sweeps").rmdir()
    (out / "sweeps").symlink_to(out.parent / "elsewhere")
    remove(out, marker="unfinished.json")
    assert not out.exists()
    xr.testing.assert_equal(jf.load(out.parent / "elsewhere").load(), RUNS)


@pytest.mark.parametrize("place", ["start", "end"])
def test_a_page_that_quotes_a_report_is_none(out, place):
    write(read(out.with_name("source")), out, False)
    write(read(out.with_name("source")), out, True)
    page = out.read_text()
    out.write_text(f"<p>{page}" if place == "start" else f"thesis\n{page}")
    before = out.read_bytes()
    with pytest.raises(ValueError, match="is not a report"):
        write(read(out.with_name("source")), out, True)
    assert out.read_bytes() == before
