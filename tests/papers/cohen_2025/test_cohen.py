"""The experiment on the edge of stability, small."""

import numpy as np
import pytest

from jaxflow.papers.cohen_2025 import experiment


def small(*parts):
    return experiment.run(only=parts, quick=True, progress=lambda words: None)


@pytest.fixture(scope="module")
def tree():
    return small("edge")


def check_words_and_figures(tree, check_axes):
    check_axes(tree)
    parts = set(tree.children)
    assert set(experiment.summary(tree).experiment) == parts
    figures = experiment.figures(tree)
    assert set(figures) == parts
    assert all(axis.get_xlabel() for figure in figures.values() for axis in figure.axes)


def test_there_are_rows_and_a_figure(tree, check_axes):
    check_words_and_figures(tree, check_axes)
    assert "central" in experiment.headline(tree)


def test_the_central_flow_is_the_average_of_descent(tree):
    """And the gradient flow is not."""
    runs = tree["edge"].to_dataset()
    wrong = experiment.errors(runs)
    assert wrong.since.notnull().all()
    assert not runs.saturated.any()
    assert not runs.failed.any()
    late = wrong.where(wrong.since >= experiment.SETTLED)
    bounds = {"loss": 0.03, "sharpness": 0.09, "corrected sharpness": 0.03}
    for name, bound in (bounds | {"oscillation": 0.3}).items():
        assert float(late[name].max()) < bound, name
    end = runs.sharpness.isel(step=-1)
    assert (end.sel(trajectory="gradient flow") > 1.2 * runs.threshold).all()


def test_records_are_windows_of_descent():
    """Means of as many even as odd steps, around each record."""
    mean = experiment._windows(60)
    assert mean.shape == (11, 61)
    np.testing.assert_allclose(mean.sum(axis=1), 1)
    np.testing.assert_allclose(mean[1:] @ np.arange(61), np.arange(5, 51, 5) - 0.5)
    np.testing.assert_allclose(mean[1:] @ (-1.0) ** np.arange(61), 0, atol=1e-15)
    assert mean[0, 0] == 1


@pytest.mark.exhaustive
def test_limits_get_flatter(check_axes):
    """All but without exception."""
    tree = small("limits")
    check_words_and_figures(tree, check_axes)
    runs = tree["limits"].to_dataset()
    assert float(experiment.rises(runs).max()) < 0.002
    assert (runs.limit.isel(step=-1) < runs.limit.isel(step=0)).all()


@pytest.mark.exhaustive
@pytest.mark.parametrize("part", ["transient", "digits", "optimizers"])
def test_other_parts_have_rows_and_a_figure(part, check_axes):
    tree = small(part)
    runs = tree[part].to_dataset()
    assert np.isfinite(runs.loss.to_numpy()).all()
    assert not runs.failed.any()
    check_words_and_figures(tree, check_axes)


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        ({"only": ("edges",)}, "must name some of edge, transient"),
        ({"seeds": 0}, "`seeds` must be at least 1"),
    ],
)
def test_other_requests_are_refused(arguments, fact):
    with pytest.raises(ValueError, match=fact):
        experiment.run(**arguments)
