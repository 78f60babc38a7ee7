"""`jf.plot`: what is drawn is what was asked for, and says what it leaves out."""

import jax
import jax.numpy as jnp
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

import jaxflow as jf
from jaxflow.plotting.palette import STYLES

CONVERGED, DIVERGED, PENDING = jf.Status.CONVERGED, jf.Status.DIVERGED, -1
TIMES = np.array([0.0, 1.0, 2.0, 3.0])


@pytest.fixture
def ax():
    return Figure().subplots()


def sweep(seeds=5, scales=(0.1, 0.2, 0.4), depths=(2, 3)):
    """Sharpness `100 depth + 10 k + seed + time` at the scale number `k`, of all runs."""
    shape = seeds, len(depths), len(scales)
    seed, depth, k, time = np.meshgrid(
        np.arange(seeds), depths, np.arange(len(scales)), TIMES, indexing="ij"
    )
    dims = ("seed", "depth", "scale")
    status = np.full(shape, CONVERGED, np.int32)
    values = 100.0 * depth + 10 * k + seed + time
    return xr.Dataset(
        {
            "time": ((*dims, "record"), time),
            "status": (dims, status),
            "num_steps": (dims, np.full(shape, 30), {"fill": -1}),
            "sharpness": ((*dims, "record"), values),
            "far": ((*dims, "record"), values > 303),
            "flattest": ("depth", [7.0] * len(depths)),
            "least": ((), 7.0),
            "method": ("depth", np.array(["one"] * len(depths), object)),
        },
        {"seed": np.arange(seeds), "depth": list(depths), "scale": list(scales)},
    )


def trajectory(values, status=CONVERGED, times=TIMES, **more):
    """A run, or a batch of them."""
    values, status = jnp.asarray(values), jnp.asarray(status, jnp.int32)
    if values.ndim > 1:
        return jax.vmap(lambda v, s: trajectory(v, s, times))(values, status)
    return jf.Trajectory(
        time=jnp.asarray(times, float),
        observed={"loss": values, **more},
        network=jf.DeepLinear((jnp.ones((1, 2)),)),
        num_steps=jnp.asarray(30),
        status=status,
        predicted_decrease=jnp.asarray(0.0),
        record_steps=jnp.array([0, 10, 20, 30]),
    )


def lines(ax):
    """The lines with a name, in the order of the legend."""
    handles, labels = ax.get_legend_handles_labels()
    found = [getattr(handle, "lines", [handle])[0] for handle in handles]
    return dict(zip(labels, found, strict=True))


def legend(ax):
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    return ax.get_legend().get_title().get_text(), texts


def bars(ax):
    """Ends of the bars of the first line."""
    return np.array([path[:, 1] for path in ax.collections[0].get_segments()]).T


def test_at_the_end_against_an_axis_there_are_medians_and_quartiles(ax):
    jf.plot(sweep(), "sharpness", against="scale", ax=ax)
    line = lines(ax)["depth 2"]
    np.testing.assert_array_equal(line.get_xdata(), [0.1, 0.2, 0.4])
    np.testing.assert_array_equal(line.get_ydata(), [205, 215, 225])
    np.testing.assert_array_equal(bars(ax), [[204, 214, 224], [206, 216, 226]])
    assert legend(ax) == ("medians and quartiles of 5 seeds", ["depth 2", "depth 3"])
    assert ax.get_xlabel() == "scale of the initialization"
    assert ax.get_ylabel() == "sharpness at the end"


def test_in_time_two_axes_are_colors_and_line_styles(ax):
    jf.plot(sweep(), "sharpness", ax=ax)
    assert ax.get_xlabel() == "training time"
    title, texts = legend(ax)
    scales = ["scale 0.1", "scale 0.2", "scale 0.4"]
    assert (title, texts) == (
        "medians and quartiles of 5 seeds",
        [*scales, "depth 2", "depth 3"],
    )
    drawn = [line for line in ax.lines if len(line.get_xdata()) == 4]
    assert len(drawn) == 6
    looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in drawn}
    # In grey, markers and styles alone tell lines apart.
    assert len({look[1:] for look in looks}) == 6
    assert len({color for color, *_ in looks}) == 3
    np.testing.assert_array_equal(lines(ax)["scale 0.2"].get_ydata(), 212 + TIMES)
    band = ax.collections[0].get_paths()[0].vertices
    assert {tuple(point) for point in band} >= {(0.0, 201.0), (0.0, 203.0)}


def test_runs_that_diverged_or_are_pending_are_left_out_and_counted(ax):
    runs = sweep()
    runs.status[:3, 0, 1] = DIVERGED
    runs.status[:1, 0, 2] = PENDING
    jf.plot(runs, "sharpness", against="scale", ax=ax)
    np.testing.assert_array_equal(lines(ax)["depth 2"].get_ydata(), [205, 216.5, 225.5])
    title, _ = legend(ax)
    assert title.endswith("of 30 runs, 1 pending, 3 diverged (×)")
    [cross] = [line for line in ax.lines if line.get_marker() == "x"]
    assert cross.get_xdata().tolist() == [0.2]
    assert cross.get_color() == lines(ax)["depth 2"].get_color()


def test_in_time_too(ax):
    runs = sweep().isel(scale=0)
    runs.status[0] = DIVERGED
    runs.sharpness[0, :, 2:] = np.nan
    jf.plot(runs, "sharpness", ax=ax)
    np.testing.assert_array_equal(lines(ax)["depth 3"].get_ydata(), 302.5 + TIMES)
    assert "2 diverged" in legend(ax)[0]
    assert "scale 0.1" in legend(ax)[0]


def test_runs_that_stop_early_keep_their_last_value(ax):
    """Of which the last record is the end, and those before were never reached."""
    runs = sweep(seeds=3).isel(scale=0, depth=0)
    runs.time[0] = [0.0, 0.5, np.inf, 0.7]
    runs.sharpness[0] = [0.0, -1.0, np.nan, -2.0]
    jf.plot(runs, "sharpness", ax=ax)
    x, y = ax.lines[0].get_data()
    np.testing.assert_array_equal(x, [0, 0.5, 1, 2, 3])
    np.testing.assert_array_equal(y, [201, 201, 202, 203, 204])
    # Quartiles at the end, between the one that stopped, at -2, and 204 and 205.
    band = ax.collections[0].get_paths()[0].vertices
    assert {y for x, y in band if x == 3} == {101.0, 204.5}


def test_a_shorter_run_ends_where_it_is_padded(ax):
    runs = sweep()
    runs.time[:, 0, :, 3] = np.inf
    runs.sharpness[:, 0, :, 3] = np.nan
    jf.plot(runs, "sharpness", against="scale", ax=ax)
    np.testing.assert_array_equal(lines(ax)["depth 2"].get_ydata(), [204, 214, 224])
    np.testing.assert_array_equal(lines(ax)["depth 3"].get_ydata(), [305, 315, 325])


@pytest.mark.parametrize("against", ["time", "step"])
def test_a_run_that_diverged_is_drawn_up_to_there(ax, against):
    run = trajectory([[4.0, 3, 2, 1], [4.0, 5, 1e9, np.nan]], status=[CONVERGED, DIVERGED])
    jf.plot(run, "loss", against=against, ax=ax)
    shown = lines(ax)["member 1"]
    np.testing.assert_array_equal(shown.get_ydata(), [4, 5])
    [cross] = [line for line in ax.lines if line.get_marker() == "x"]
    assert cross.get_ydata().tolist() == [5]
    assert cross.get_xdata().tolist() == [{"time": 1, "step": 10}[against]]
    assert ax.get_ylim()[1] < 10
    assert legend(ax)[0] == "of 2 runs, 1 diverged (×)"


def test_a_trajectory_is_one_line_and_the_next_one_another(ax):
    for values in ([4.0, 3, 2, 1], [4.0, 2, 1, 0.5]):
        jf.plot(trajectory(values), "loss", ax=ax)
    first, second = ax.lines
    np.testing.assert_array_equal(first.get_data(), [TIMES, [4, 3, 2, 1]])
    assert first.get_color() != second.get_color()
    assert first.get_marker() != second.get_marker()


def test_entries_of_an_observable_are_lines(ax):
    more = {"ends": {"pair": jnp.arange(8.0).reshape(4, 2)}}
    jf.plot(trajectory([4.0, 3, 2, 1], **more), "ends.pair", ax=ax)
    assert [*lines(ax)] == ["ends.pair[0]", "ends.pair[1]"]
    np.testing.assert_array_equal(lines(ax)["ends.pair[1]"].get_ydata(), [1, 3, 5, 7])


def test_truth_values_are_shares(ax):
    jf.plot(sweep().sel(depth=3), "far", against="scale", ax=ax)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [0.8, 1, 1])
    assert legend(ax)[0] == "depth 3\nshares of 5 seeds"
    assert ax.get_ylabel() == "far at the end (share)"


def test_whole_numbers_that_stand_for_none_are_none(ax):
    runs = sweep()
    runs.num_steps[1:, 0, 0] = -1
    jf.plot(runs, "num_steps", ax=ax)
    np.testing.assert_array_equal(lines(ax)["depth 2"].get_ydata(), [30, 30, 30])
    assert ax.get_ylabel() == "num steps"


def test_names_are_ticks_without_a_line_between_them(ax):
    names = np.array(["GD", "Adam"], object)
    runs = sweep().isel(scale=0).assign_coords(depth=names).rename(depth="optimizer")
    jf.plot(runs, "sharpness", against="optimizer", ax=ax)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["GD", "Adam"]
    assert ax.lines[0].get_linestyle() == "None"


def test_many_values_are_shades_and_few_of_them_named(ax):
    runs = sweep(seeds=1, scales=np.linspace(0.1, 1, 30), depths=(2,))
    jf.plot(runs.isel(seed=0), "sharpness", ax=ax)
    names = [name for name in lines(ax) if name != "_"]
    assert len(names) == 6
    assert (names[0], names[-1]) == ("scale 0.1", "scale 1")
    greys = [mpl.colors.rgb_to_hsv(line.get_color()[:3])[2] for line in ax.lines]
    assert len(ax.lines) == len({line.get_color() for line in ax.lines}) == 30
    assert greys[0] < greys[-1]


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([1.0, 2, 3, 4], "linear"),
        ([1.0, 0.1, 0.01, 0.001], "log"),
        ([1.0, 0.1, 0.01, 0.0], "linear"),
        ([1.0, 0.1, 0.05, 0.02], "linear"),
        ([1.0, 0.1, 0.001, -0.1], "linear"),
    ],
)
def test_scales_are_logarithmic_for_positive_numbers_of_many_sizes(ax, values, scale):
    jf.plot(trajectory(values), "loss", ax=ax)
    assert ax.get_yscale() == scale


@pytest.mark.parametrize(("times", "scale"), [(TIMES, "linear"), ([0, 1, 30, 1000], "log")])
def test_time_is_logarithmic_where_records_get_rarer(ax, times, scale):
    jf.plot(trajectory([1.0, 2, 3, 4], times=times), "loss", ax=ax)
    assert ax.get_xscale() == scale


def test_units_and_names_of_the_data_are_told(ax):
    runs = sweep().isel(depth=0)
    runs.sharpness.attrs.update(long_name="curvature", units="1/s")
    runs.scale.attrs["units"] = "mm"
    jf.plot(runs, "sharpness", against="scale", ax=ax)
    assert ax.get_ylabel() == "curvature [1/s] at the end"
    assert ax.get_xlabel() == "scale of the initialization [mm]"


def test_a_figure_of_its_own_is_one_that_notebooks_show():
    before, style = plt.get_fignums(), dict(mpl.rcParams)
    ax = jf.plot(sweep(), "sharpness", against="scale")
    assert plt.gcf() is ax.figure
    plt.close(ax.figure)
    assert plt.get_fignums() == before
    assert dict(mpl.rcParams) == style


@pytest.mark.parametrize(
    ("quantity", "against", "fact"),
    [
        ("sharpnes", None, "Did you mean 'sharpness'?"),
        (
            "alignment",
            None,
            "must be one of time, num_steps, sharpness, far, flattest, least",
        ),
        ("method", None, "'method' is not numeric"),
        ("status", None, "'status' is not numeric"),
        ("least", None, "'least' is one number"),
        ("sharpness", "scales", "Did you mean 'scale'?"),
        ("sharpness", "width", "one of time, seed, depth, scale, record"),
        ("num_steps", "time", "must be an axis of 'num_steps'"),
        ("flattest", "scale", "must be an axis of 'flattest'"),
    ],
)
def test_what_is_not_there_is_told_before_anything_is_drawn(quantity, against, fact):
    with pytest.raises(ValueError, match="`plot") as error:
        jf.plot(sweep(), quantity, against=against)
    assert fact in str(error.value)
    assert not plt.get_fignums()


def test_more_axes_than_can_be_told_apart_are_refused(ax):
    runs = sweep().expand_dims(width=range(len(STYLES) + 1))
    with pytest.raises(ValueError, match=r"depth \(2 values\).*sel\(depth=...\)"):
        jf.plot(runs, "sharpness", ax=ax)
    jf.plot(runs.sel(depth=2), "sharpness", ax=ax)
    wide = runs.sel(depth=2).isel(scale=0).expand_dims(data=range(len(STYLES) + 1))
    with pytest.raises(ValueError, match=r"of at most 4 values.*sel\(width=...\)"):
        jf.plot(wide, "sharpness", ax=ax)


def test_a_tree_is_refused_with_its_branches():
    with pytest.raises(ValueError, match="a tree of gaussian"):
        jf.plot(xr.DataTree.from_dict({"gaussian": sweep()}), "sharpness")
