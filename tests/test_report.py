"""What is in a store, drawn and told: of sweeps done or not, and of what was saved."""

import base64
import json
from xml.etree import ElementTree

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import xarray as xr

import jaxflow as jf
from jaxflow.report import draw, page, write
from jaxflow.stored import read

AXES = {"scale": [0.1, 0.2, 0.4]}


class Enough(Exception):
    """What stops a sweep."""


def run(key, kind, scale):
    """Not a trajectory: values of the end alone."""
    size = scale * (1 + jr.uniform(key)) * {"one": 1, "other": 2}[kind]
    return {"size": size, "weights": size * jnp.ones(2), "small": size < 0.3}


def sweep(path, progress=None):
    static = {"kind": ("one", "other")}
    options = {"key": jr.key(0), "seeds": 4, "chunk": 4, "axes": AXES, "static": static}
    return jf.sweep(run, path=path, progress=progress, **options)


def trajectories():
    """As a sweep of descents, with more axes than a panel can show."""
    sizes = {"seed": 3, "depth": 5, "width": 7, "step_size": 6, "record": 4}
    shape = tuple(sizes.values())
    rest = ("seed", "depth", "width", "step_size")
    values = np.random.default_rng(0).uniform(1, 2, shape)
    status = np.full(shape[:-1], jf.Status.CONVERGED, np.int32)
    status[0, 0, 0, 0] = jf.Status.DIVERGED
    return xr.Dataset(
        {
            "time": (tuple(sizes), np.broadcast_to(np.arange(4.0), shape)),
            "num_steps": (rest, np.full(shape[:-1], 30)),
            "status": (rest, status),
            "loss": (tuple(sizes), values),
        },
        {name: np.arange(1, 1 + sizes[name]) for name in rest},
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    path = tmp_path_factory.mktemp("stores") / "sizes & <other>"
    sweep(path)
    return path


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory):
    def stop(words):
        raise Enough

    path = tmp_path_factory.mktemp("stores") / "half"
    with pytest.raises(Enough):
        sweep(path, stop)
    return path


def panels(figure):
    """Labels of the axes of each panel."""
    return [(axis.get_ylabel(), axis.get_xlabel()) for axis in figure.axes]


def test_a_sweep_has_a_panel_for_each_number_and_rows_for_all(done):
    found = read(done)
    [(name, figure)] = found.figures().items()
    assert name == "values"
    against = "scale of the initialization"
    wanted = {("size", against), ("small (share)", against), ("weights", against)}
    assert set(panels(figure)) == wanted
    assert found.headline() == ""
    summary = found.summary().set_index("quantity")
    assert summary.loc["size", "axes"] == "seed: 4, kind: 2, scale: 3"
    assert summary.loc["weights", "numbers"] == 48
    size = jf.load(done)["size"]
    assert summary.loc["size", "largest"] == f"{float(size.max()):.4g}"
    axes = found.axes().set_index("axis")
    assert axes.loc["kind", "values"] == "one, other"
    assert axes.loc["scale", "meaning"] == "scale of the initialization"


def test_an_unfinished_sweep_says_so_and_draws_what_there_is(unfinished):
    found = read(unfinished)
    assert found.headline() == "unfinished, 1 of 6 chunks done, 17%"
    figure = found.figures()["values"]
    assert figure.get_suptitle() == "half: unfinished, 1 of 6 chunks done, 17%"
    [axis] = [axis for axis in figure.axes if axis.get_ylabel() == "size"]
    [handle], [label] = axis.get_legend_handles_labels()
    assert handle.lines[0].get_xdata().tolist() == AXES["scale"][:1]
    assert label == "one"


def test_where_a_sweep_comes_from_is_told(done):
    origin = read(done).origin()
    assert origin["experiment"] == "sweep"
    assert "seeds=4, static={'kind': ['one', 'other']}" in origin["arguments"]
    assert "jaxflow " in origin["versions"]
    assert {"device", "created", "platform", "seconds"} <= origin.keys()
    assert origin["float64"] == "yes"


def test_runs_are_drawn_in_time_and_at_the_end(tmp_path):
    """With axes that are too many at their middle values, which the legend says."""
    found = read(jf.save(trajectories(), tmp_path / "runs"))
    figures = found.figures()
    assert panels(figures["in-time"]) == [("loss", "training time")]
    assert panels(figures["at-the-end"]) == [
        ("loss at the end", "width"),
        ("num steps", "width"),
    ]
    legend = figures["in-time"].axes[0].get_legend()
    title = legend.get_title().get_text().splitlines()
    assert title == ["step size 4, depth 3", "medians and quartiles of 3 seeds"]
    assert len(legend.get_texts()) == 7
    assert found.headline() == "629 converged, 1 diverged"
    assert found.summary().set_index("quantity").loc["loss", "numbers"] == 629
    assert found.origin() == {}


def test_a_tree_has_figures_for_each_branch(tmp_path):
    both = xr.DataTree.from_dict({"flow": trajectories(), "descent": trajectories()})
    found = read(jf.save(both, tmp_path / "runs"))
    names = [f"{branch}-{view}" for branch in ("descent", "flow") for view in VIEWS]
    assert list(found.figures()) == names
    assert found.axes().branch.unique().tolist() == ["descent", "flow"]


VIEWS = ("in-time", "at-the-end")


def test_figures_are_written_with_where_they_come_from(done, tmp_path):
    before = {path: path.stat().st_mtime for path in done.rglob("*")}
    found = read(done)
    assert draw(found, tmp_path / "out", False) == ["values.png"]
    assert {path: path.stat().st_mtime for path in done.rglob("*")} == before
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"values.png", "provenance.json"}
    stamp = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert stamp.pop("jaxflow")["holds"] == ["values.png"]
    assert stamp == found.origin()


def test_the_page_is_whole_and_alone(done):
    """As XML, which HTML need not be, nothing is left open or unescaped."""
    text = page(read(done))
    assert text.startswith("<!DOCTYPE html>\n")
    root = ElementTree.fromstring(text.split("\n", 1)[1])
    space = "{http://www.w3.org/1999/xhtml}"
    assert root.findtext(f"{space}head/{space}title") == done.name
    assert root.findtext(f"{space}body/{space}h1") == done.name
    [image] = root.iter(f"{space}img")
    assert image.get("alt") == (
        "sizes & <other>. size against scale of the initialization. small (share) against "
        "scale of the initialization. weights against scale of the initialization"
    )
    kind, data = image.get("src").split(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(data).startswith(b"\x89PNG")
    assert not [e for e in root.iter() if {"href", "srcset"} & {*e.keys()}]
    assert not [*root.iter(f"{space}script"), *root.iter(f"{space}link")]
    assert "url(" not in text
    captions = [caption.text for caption in root.iter(f"{space}caption")]
    assert captions == ["What was found", "Axes of the data", "Where it comes from"]
    cells = {cell.text for cell in root.iter(f"{space}td")}
    assert {"size", "one, other", "sweep", "device", "versions"} <= cells


def test_a_report_takes_the_place_of_a_report_alone(done, tmp_path):
    found, out = read(done), tmp_path / "deep" / "report.html"
    write(found, out, False)
    with pytest.raises(ValueError, match="another report"):
        write(found, out, False)
    write(found, out, True)
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]
    (tmp_path / "thesis.html").write_text("years of work")
    for taken in (tmp_path / "thesis.html", tmp_path / "deep"):
        with pytest.raises(ValueError, match="not a report"):
            write(found, taken, True)
    assert (tmp_path / "thesis.html").read_text() == "years of work"


def spoil(store, name, words):
    (store / name).write_bytes(words)
    return store


@pytest.mark.parametrize("name", ["zarr.json", "loss/zarr.json", "loss/c/0/0/0/0/0"])
def test_what_cannot_be_read_is_told_in_one_line(tmp_path, name):
    store = spoil(jf.save(trajectories(), tmp_path / "runs"), name, b"{]")
    with pytest.raises(ValueError, match="runs cannot be read: ") as error:
        read(store)
    assert "\n" not in str(error.value)


def test_what_is_no_store_is_told(tmp_path):
    with pytest.raises(ValueError, match="there is nothing"):
        read(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"but is neither\.$"):
        read(tmp_path)
    jf.save(trajectories(), tmp_path / "sweeps" / "flow")
    with pytest.raises(ValueError, match=r"It holds unfinished sweeps: .*sweeps/flow"):
        read(tmp_path)


def test_results_of_another_version_are_told(tmp_path):
    other = trajectories().assign_attrs(experiment="flat-minima")
    found = read(jf.save(other, tmp_path / "runs"))
    with pytest.raises(ValueError, match="does not hold what this version"):
        found.figures()


def test_a_store_without_numbers_has_nothing_to_draw(tmp_path):
    names = xr.Dataset({"name": ("case", np.array(["one", "other"], object))})
    with pytest.raises(ValueError, match="runs holds no numbers"):
        read(jf.save(names, tmp_path / "runs")).figures()
