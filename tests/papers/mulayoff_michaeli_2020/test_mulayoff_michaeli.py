"""The experiments on linear networks of Mulayoff & Michaeli (2020), small."""

import numpy as np
import pytest

import jaxflow as jf
from jaxflow.papers.mulayoff_michaeli_2020 import experiment

SEEDS = 8
# By the rounding of the flow, and only by that, is this target reached.
ROUNDED = "not normal, negative determinant"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "images.npy"
    np.save(path, np.random.default_rng(0).uniform(size=(12, 2, 2)))
    told = []
    tree = experiment.run(quick=True, seeds=SEEDS, data=str(path), progress=told.append)
    assert [words for words in told if words.startswith("images.npy: 12 samples of 4")]
    return tree


def test_every_part_has_rows_and_a_figure(tree, check_axes):
    check_axes(tree)
    table = experiment.summary(tree)
    assert set(table.experiment) == set(tree.children) == set(experiment.EXPERIMENT.parts)
    figures = experiment.figures(tree)
    assert set(figures) == set(experiment.EXPERIMENT.parts)
    assert all(len(figure.axes) == 2 for figure in figures.values())
    assert all(axis.get_xlabel() for figure in figures.values() for axis in figure.axes)


def test_residual_flows_end_flattest_only_where_theory_says(tree, flattest_reference):
    ends = tree["residual"].to_dataset().isel(record=-1, depth=0)
    table = experiment.summary(tree).set_index("case")
    saddles = ("negative determinant", "two negative eigenvalues")
    for target in ends.target.to_numpy():
        one = ends.sel(target=target)
        ended = "saddle" if target in saddles else "converged"
        assert table.loc[f"{target}, depth 2", "ended"] == ended
        assert (float(one.excess) > 0.1) == (target in saddles)
        assert bool(one.crossed) == (target == ROUNDED)
        if target not in (*saddles, "data not white"):
            assert float(one.sharpness / one.flattest) == pytest.approx(1, abs=1e-7)
    # Arrived where no exact flow does.
    found = table.loc[f"{ROUNDED}, depth 2", "finding"]
    assert found == "rounding: determinant changed sign"
    # As sharp as the flattest minimum, and not one.
    one = ends.sel(target="negative determinant")
    assert float(one.sharpness / one.flattest) == pytest.approx(1, abs=1e-7)
    assert float(one.lowest) == pytest.approx(-1, abs=1e-7)
    [case] = [
        case
        for case in flattest_reference["flow_cases"]
        if case["name"].startswith("diag(.5,1,2), Sigma") and case["m"] == 2
    ]
    one = ends.sel(target="data not white")
    assert float(one.sharpness / one.flattest) == pytest.approx(case["ratio"], rel=1e-8)


@pytest.mark.exhaustive
def test_residual_flows_of_three_layers_end_flattest_where_theory_says(flattest_reference):
    """The saddles are not strict any more: rounding does not leave them in time."""
    ends = experiment.run(only=("residual",))["residual"].to_dataset().sel(depth=3)
    ends = ends.isel(record=-1)
    ratio = ends.sharpness / ends.flattest
    status = ends.status.to_series()
    saddles = ["negative determinant", "two negative eigenvalues"]
    slow = ["singular", ROUNDED]
    assert (status[saddles] == jf.Status.SADDLE).all()
    assert (status[slow] == jf.Status.UNCONVERGED).all()
    assert (status.drop([*saddles, *slow]) == jf.Status.CONVERGED).all()
    assert not ends.crossed.any()
    assert (ends.excess.sel(target=[*saddles, ROUNDED]) > 0.1).all()
    cases = flattest_reference["flow_cases"]
    [wanted] = [c["ratio"] for c in cases if "diag(.5,1,2), S" in c["name"] and c["m"] == 3]
    assert float(ratio.sel(target="data not white")) == pytest.approx(wanted, rel=1e-8)
    flattest = ratio.drop_sel(target=["data not white", "two negative eigenvalues"])
    np.testing.assert_allclose(flattest, 1, atol=1e-6)


def test_descent_flattens_with_its_step_size_up_to_the_critical_one(
    tree, flattest_reference
):
    """Means over eight random starts of ours, and of the independent implementation."""
    runs = tree["cliff"].to_dataset().sel(depth=3)
    wanted = flattest_reference["gd_step_sweep_mean_of_8"]["m3"]
    for share in (0.05, 0.6, 0.95):
        some = runs.sel(step_size_share=share)
        settled = (some.status == jf.Status.CONVERGED).to_numpy()
        assert settled.all() or share == 0.95
        some = some.isel(seed=settled)
        ratio = some.sharpness / runs.flattest
        columns = (ratio, ratio * share, some.spread, some.alignment, some.coupling)
        weight = (1 / settled.sum() + 1 / SEEDS) ** 0.5
        for values, mean in zip(columns, wanted[str(share)], strict=True):
            error = float(values.std("seed", ddof=1)) * weight
            # All but critical steps cut sharpness off: there seeds differ by 0.1 %.
            assert abs(float(values.mean("seed")) - mean) < 4 * error + 0.01 * mean
        # As wide as the bound says, to a quarter, where steps are nearly critical.
        assert (some.spread <= some.spread_bound).all()
        assert share < 0.95 or float(some.spread.max() / some.spread_bound) > 0.75
    beyond = runs.sel(step_size_share=1.05).status
    assert not beyond.isin([jf.Status.CONVERGED]).any()


def test_flattest_minima_pass_their_signal_on_with_one_gain(tree):
    runs = tree["gains"].to_dataset()
    flat = runs.sel(minimum=["flattest, explicit", "balanced", "found directly"])
    np.testing.assert_allclose(flat.sharpness / runs.flattest, 1, rtol=1e-6)
    np.testing.assert_allclose(flat.coupling, 1, rtol=1e-5)
    inner = flat.largest.isel(layer=slice(0, -1)).to_numpy()
    assert np.all(inner >= runs.lower.to_numpy() * (1 - 1e-3))
    assert np.all(inner <= runs.upper.to_numpy() * (1 + 1e-3))
    sharp = runs.sel(minimum=["least trace", "random"])
    assert (sharp.sharpness > 1.01 * runs.flattest).all()


def test_noise_raises_the_loss_by_half_the_curvature(tree):
    """Measured by moving the weights, against the eigenvalue and the trace."""
    runs = tree["noise"].to_dataset()
    np.testing.assert_allclose(runs.worst, runs.sharpness / 2, rtol=1e-3)
    mean = runs.trace / 2 / runs.weights
    # 256 directions: the largest of 100 eigenvalues alone spreads their mean by less.
    np.testing.assert_allclose(runs["mean"], mean, rtol=0.5)
    np.testing.assert_allclose(runs["mean"].mean("seed"), mean.mean("seed"), rtol=0.1)
    worst = runs.worst.min("seed")
    assert float(worst.min()) == pytest.approx(runs.flattest / 2, rel=1e-3)
    average = runs["mean"].mean("seed")
    assert str(average.idxmin("minimum").values) == "least trace"


def test_linear_denoisers_end_flattest_on_white_inputs(tree):
    ends = tree["denoiser"].to_dataset().isel(record=-1)
    white, raw = (ends.sel(inputs=name) for name in ("white inputs", "inputs as they are"))
    np.testing.assert_allclose(white.sharpness / white.flattest, 1, rtol=1e-6)
    np.testing.assert_allclose(raw.sharpness, raw.balanced, rtol=1e-6)


def test_scalar_descents_end_below_two_over_the_step_size(tree):
    ends = tree["chain"].to_dataset().isel(record=-1)
    settled = ends.status == jf.Status.CONVERGED
    assert settled.to_numpy().tolist() == [True, True, True, True, False]
    some = ends.isel(step_size=settled.to_numpy())
    assert (some.sharpness <= 2 / some.step_size * (1 + 1e-3)).all()
    squares = (some.layers**2).sum("layer")
    np.testing.assert_allclose(some.sharpness, 2 * squares, rtol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        ({"only": ("chains",)}, "must name some of chain, residual"),
        ({"seeds": 0}, "`seeds` must be at least 1"),
        ({"noise": 0.0}, "`noise` must be positive"),
        ({"data": "digit"}, "Did you mean 'digits'"),
    ],
)
def test_other_requests_are_refused(arguments, fact):
    with pytest.raises(ValueError, match=fact):
        experiment.run(**arguments)
