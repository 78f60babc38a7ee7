"""The experiments of Baldassi, Pittorino & Zecchina (2020), small."""

import numpy as np
import pytest

from jaxflow.experiments import baldassi_pittorino_zecchina as experiment

SMALL = ("replicas", "algorithms")
SIZE = {"hidden": 3, "inputs": 201, "load": 0.5, "seeds": 4}


@pytest.fixture(scope="module")
def tree():
    quiet = lambda words: None
    return experiment.run(only=SMALL, quick=True, progress=quiet, **SIZE)


def test_every_part_has_rows_and_a_figure(tree, check_axes):
    check_axes(tree)
    table = experiment.summary(tree)
    assert set(table.experiment) == set(tree.children) == set(SMALL)
    figures = experiment.figures(tree)
    assert set(figures) == set(SMALL)
    assert all(axis.get_xlabel() for figure in figures.values() for axis in figure.axes)


def test_algorithms_end_as_wide_as_those_of_the_reference(tree):
    """The margins that hold at three sizes in the independent runs."""
    runs = tree["algorithms"].to_dataset()
    solved = runs.solved.sum("seed")
    for name in ("LAL", "entropic LAL", "CE slow", "fBP", "fBP, to the end"):
        assert solved.sel(algorithm=name) == 4
    ends = runs.where(runs.solved == 1).mean("seed")
    energy = {
        name: float(ends.local_energy.sel(algorithm=name, radius=0.3))
        for name in runs.algorithm.to_numpy()
    }
    assert energy["fBP, to the end"] < energy["fBP"] < 1.2 * energy["CE slow"]
    assert energy["CE slow"] < energy["entropic LAL"] / 2
    assert energy["entropic LAL"] < 0.6 * energy["LAL"]
    trace = {n: float(ends.trace.sel(algorithm=n)) for n in runs.algorithm.to_numpy()}
    assert max(trace["fBP"], trace["CE slow"], trace["CE fast"]) < trace["entropic LAL"]
    assert trace["entropic LAL"] < trace["LAL"]
    # Of independent runs at this size, four standard errors of six and of four seeds.
    wanted = {"LAL": 0.232, "entropic LAL": 0.084, "CE slow": 0.0248, "fBP": 0.0159}
    for name, mean in wanted.items():
        assert energy[name] == pytest.approx(mean, rel=0.5)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", [n for n in experiment.PARTS if n not in SMALL])
def test_every_other_part_has_rows_and_a_figure(name, check_axes):
    tree = experiment.run(only=(name,), quick=True, progress=lambda words: None)
    check_axes(tree)
    assert set(experiment.summary(tree).experiment) == {name}
    assert all(axis.get_xlabel() for axis in experiment.figures(tree)[name].axes[:1])


@pytest.mark.exhaustive
def test_volumes_are_those_of_the_reference():
    quiet = lambda words: None
    tree = experiment.run(only=("entropy",), quick=True, seeds=4, progress=quiet)
    runs = tree["entropy"].to_dataset()
    assert (runs.solved == 1).all()
    assert (runs.reliable == 1).all()
    mean = runs.entropy.sel(distance=0.05).mean("seed")
    # Of independent runs, with six seeds.
    for name, entropy in {"CE slow": -0.045, "fBP": -0.042}.items():
        assert float(mean.sel(algorithm=name)) == pytest.approx(entropy, rel=0.4)
    assert runs.sizes["rank"] == 205
    # Slow descents and belief propagation end where the Hessian is nearly positive.
    assert (runs.eigenvalues.min("rank") > -0.5 * runs.eigenvalues.max("rank")).all()


@pytest.mark.exhaustive
def test_parity_machines_are_narrower_at_a_distance():
    quiet = lambda words: None
    tree = experiment.run(only=("parity",), quick=True, seeds=4, progress=quiet)
    runs = tree["parity"].to_dataset()
    assert (runs.errors == 0).all()
    far = runs.local_energy.sel(radius=0.5).mean("seed")
    assert (far.sel(machine="parity") > far.sel(machine="committee")).all()


def test_units_that_do_not_jump_have_wider_minima(tree):
    entropy = tree["replicas"].to_dataset().entropy
    for curve in ("typical", "20 replicas", "widest"):
        some = entropy.sel(curve=curve)
        assert (some.sel(units="ReLU") > some.sel(units="signs")).all()
    assert (entropy.sel(curve="widest") >= entropy.sel(curve="typical")).all()


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        ({"only": ("binaries",)}, "must name some of binary, replicas"),
        ({"seeds": 0}, "`seeds` must be at least 1"),
        ({"load": 0.0}, "`load` must be positive"),
        ({"hidden": 4, "inputs": 200}, "odd number of units"),
        ({"hidden": 3, "inputs": 200}, "multiple of `hidden`"),
        ({"only": ("generalisation",), "data": "dgits"}, "must be 'digits'"),
        ({"only": ("generalisation",), "labels": "some.npy"}, "is for a file"),
    ],
)
def test_other_requests_are_refused(arguments, fact):
    with pytest.raises(ValueError, match=fact):
        experiment.run(**arguments)


def test_nothing_that_failed_counts_as_solved(tree):
    runs = tree["algorithms"].to_dataset()
    np.testing.assert_array_equal(runs.solved == 1, runs.errors == 0)
