"""The experiment on linear networks beside their exact solutions, small."""

import numpy as np
import pytest

from jaxflow.papers.exact_solutions import experiment

SMALL = ("autoencoder", "diagonal")
# The flow errs by 1e-10 of a weight in a step, and takes hundreds. What grows from a small
# start multiplies what it erred before, by up to a thousand in the end-to-end map.
CLOSE = 1e-7


def small(*names):
    return experiment.run(only=names, quick=True, progress=lambda words: None)


@pytest.fixture(scope="module")
def tree():
    return small(*SMALL)


@pytest.fixture(scope="module")
def rest():
    return small(*(name for name in experiment.EXPERIMENT.parts if name not in SMALL))


def told(tree, check_axes):
    """Whether every part has rows, a line, and a figure, all with named axes."""
    check_axes(tree)
    table, figures = experiment.summary(tree), experiment.figures(tree)
    assert set(table.experiment) == set(figures) == set(tree.children)
    assert len(experiment.headline(tree).splitlines()) >= len(tree.children)
    axes = [axis for figure in figures.values() for axis in figure.axes]
    assert all(axis.get_xlabel() and axis.get_ylabel() for axis in axes)


def test_every_part_has_rows_and_a_figure(tree, check_axes):
    told(tree, check_axes)
    assert set(tree.children) == set(SMALL)


def test_autoencoders_learn_components_when_theory_says(tree):
    runs = tree["autoencoder"].to_dataset()
    assert (runs.deviation < CLOSE).all()
    # One by one, the last one too, and twice as fast where layers are tied.
    last = runs.isel(mode=-1)
    assert (runs.flow.isel(time=-1) > 0.99).all()
    assert (runs.flow.diff("mode").isel(time=slice(1, 5)) < 0).all()
    every_other = last.flow.sel(layers="untied")[::2].to_numpy()
    tied = last.flow.sel(layers="tied")[: every_other.size].to_numpy()
    np.testing.assert_allclose(every_other, tied, atol=CLOSE)


def test_diagonal_networks_end_between_the_two_norms(tree):
    """The flow errs relatively to weights of one, for a map whose entries are a tenth."""
    runs = tree["diagonal"].to_dataset()
    assert (runs.deviation < 10 * CLOSE).all()
    size = runs.flow_l1
    assert (size.diff("scale") > 0).all()
    assert 1 < float(size[0]) / runs.attrs["least_l1"] < 1.02
    assert float(size[-1]) == pytest.approx(runs.attrs["least_l2_l1"], rel=1e-3)


@pytest.mark.exhaustive
def test_the_other_parts_have_rows_and_figures(rest, check_axes):
    told(rest, check_axes)


@pytest.mark.exhaustive
def test_two_layers_are_on_the_riccati_solution(rest):
    runs = rest["two-layers"].to_dataset()
    assert (runs.deviation < CLOSE).all()
    # Balanced layers wait; with an imbalance nothing does.
    share = (runs.flow / runs.target).sel(mode=1).isel(time=2)
    assert (share.sel(imbalance=0.0) < 0.1).all()
    assert (share.sel(imbalance=1.0) > 0.5).all()


@pytest.mark.exhaustive
def test_chains_are_on_the_end_to_end_equation_and_wait_longer_with_depth(rest):
    runs = rest["chains"].to_dataset()
    assert (runs.deviation < CLOSE).all()
    # Relative to times, which small products determine less well.
    assert (runs.chain_deviation.sel(white=True) < 1e-5).all()
    waits = (runs.flow / runs.flow.isel(time=0) > 0.5).sum("time")
    assert (waits.diff("depth") > 0).all()


@pytest.mark.exhaustive
def test_factors_find_eigenvalues_that_are_positive(rest):
    runs = rest["factorization"].to_dataset()
    assert runs.deviation < CLOSE
    wanted = np.maximum(runs.target.to_numpy(), 0)
    np.testing.assert_allclose(runs.flow.isel(time=-1), wanted, atol=1e-2)


@pytest.mark.exhaustive
def test_deeper_networks_need_fewer_measurements(rest):
    """One layer ends at the nearest matrix, to the root of the loss's tolerance."""
    runs = rest["sensing"].to_dataset()
    assert (runs.deviation.sel(depth=1) < 1e-5).all()
    assert (runs.loss < 1e-9).all()
    error = runs.error.isel(samples=-1)
    assert error.sel(depth=3) < 0.5 * error.sel(depth=1)


@pytest.mark.exhaustive
def test_nonlinear_networks_learn_and_flatten_below_two_over_the_step_size(rest):
    runs = rest["nonlinear"].to_dataset()
    limit = 2 / runs.attrs["step_size"]
    assert (runs["loss"].isel(record=-1) < 0.1).all()
    assert (runs.sharpness.isel(record=-1) < 0.5 * limit).all()
    assert ((runs.kernel > 0) & (runs.kernel < 1)).all()
    inside = runs.alignment.to_numpy()[np.isfinite(runs.alignment.to_numpy())]
    assert np.all((inside >= 0) & (inside <= 1 + 1e-9))


def test_other_requests_are_refused():
    with pytest.raises(ValueError, match="must name some of autoencoder, two-layers"):
        experiment.run(only=("chain",))
