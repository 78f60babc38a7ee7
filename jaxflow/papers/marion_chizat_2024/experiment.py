r"""All experiments of Marion & Chizat (2024), with what their code left out.

Each step size and scale sees the same starts; sharpness is the largest eigenvalue, not the
largest in absolute value; every run has a verdict, and shares count all runs; the limit of
the gradient flow from the same starts stands beside each descent, and the exact least
sharpness of a minimizer beside the paper's bounds.
"""

import functools as ft
import itertools as it
from collections.abc import Callable
from typing import Any

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

import jaxflow as jf

from .._experiment import Experiment, Part, Plan, layered, run_concurrently
from .._statistics import divergence, gap_regression, usable
from ..data import paper_data, paper_readout
from . import figures as draw


def run(
    *,
    only: tuple[str, ...] | None = None,
    seeds: int | None = None,
    seed: int = 0,
    quick: bool = False,
    sweep: Callable[..., xr.Dataset] | None = None,
    progress: Callable[[str], Any] = print,
) -> xr.DataTree:
    """Repeat all experiments of Marion & Chizat (2024), beside the flow and the theory.

    Args:
        only: Some of `gaussian`, `residual`, `depth`, `underdetermined`, `series` and
            `gelu`. By default all of them.
        seeds: Starts drawn for each scale, instead of the paper's numbers or more: 80, 20,
            50, 100 (at the least step size, and 20 at the others), 8 and 20.
        seed: Which random numbers.
        quick: Three seeds, fewer scales and a tenth of the steps: a look.
        sweep: How to sweep: `jaxflow.sweep`, which it is by default, with a name first.
        progress: Told what is under way.

    Returns:
        A tree with a dataset for each experiment, over `seed`, `step_size`, where 0 is the
        limit of the gradient flow, and `scale` or `depth`; records are the start and the
        end. The theory is in its attributes.

    Raises:
        ValueError: If `only` names something else, or `seeds` is not positive.
    """
    plan = _Plan(jax.random.key(seed), seeds, quick, sweep)
    return EXPERIMENT.run(only, plan, progress)


def headline(tree: xr.DataTree) -> str:
    """What theory predicts, in a few lines."""
    lines = []
    for name in ("gaussian", "residual", "underdetermined"):
        if name in tree.children:
            attrs = tree[name].attrs
            lines.append(
                f"{name}: no minimizer is flatter than {attrs['flattest_sharpness']:.4f} "
                f"(the paper's bound: {attrs['sharpness_lower_bound']:.4f}); small starts "
                f"tend to {attrs['balanced_sharpness']:.4f}; no descent settles above step "
                f"size {attrs['critical_step_size']:.5f}."
            )
    lines.append(
        "Sharpness is the median over runs that neither diverged nor collapsed, over all "
        "scales; shares are of all runs, with 95% intervals."
    )
    return "\n".join(lines)


def _rows(runs):
    for step_size in runs.step_size.to_numpy():
        some = runs.sel(step_size=step_size).isel(record=-1)
        count = int((some.status >= 0).sum())
        sharpness = usable(some).sharpness
        row = {
            "at": f"step size {step_size:g}" if step_size else "flow, in the limit",
            "runs": count,
            "diverged": _share(some),
            "sharpness": f"{float(sharpness.median()):.4g}",
            "range": f"{float(sharpness.min()):.4g}-{float(sharpness.max()):.4g}",
            "2/step": f"{2 / step_size:.4g}" if step_size else "-",
        }
        for status in (jf.Status.CONVERGED, jf.Status.OSCILLATING, jf.Status.UNCONVERGED):
            share = float((some.status == status).sum() / count)
            row[status.name.lower()] = f"{share:.0%}"
        if "generalization_gap" in runs:
            fit = gap_regression(runs.sel(step_size=[step_size]))
            power = f"sharpness^({fit.slope:.2f} +- {fit.stderr:.2f})"
            row["finding"] = f"gap ~ {power}, p = {fit.pvalue:.1g}"
        yield row


def _depth_rows(runs):
    ends = runs.isel(record=-1)
    for depth in runs.depth.to_numpy():
        some = ends.sel(depth=depth)
        # The paper's distance: a mean over entries of the squared error.
        close = (some.distance**2 / 5).median("seed") < 1e-5
        last = float(runs.step_size[close].max()) if close.any() else float("nan")
        yield {
            "at": f"depth {depth}",
            "runs": int((some.status >= 0).sum()),
            "diverged": _share(some),
            "finding": f"trains up to step size {last:.4f}; none settles above "
            f"{float(some.critical_step_size):.4f}",
        }


def _share(ends) -> str:
    """The share of runs that diverged, with its interval."""
    share, low, high = map(float, divergence(ends))
    return f"{share:.0%} ({low:.0%}-{high:.0%})"


def _panels(runs: xr.Dataset, axes: Any, *, panels: tuple[Callable[..., Any], ...]):
    """A panel after the other, for each kind of starts if there are several."""
    kinds = runs.start.to_numpy() if "start" in runs.dims else [None]
    for axis, (kind, panel) in zip(axes, it.product(kinds, panels), strict=True):
        panel(runs if kind is None else runs.sel(start=kind), axis)
        if kind is not None:
            axis.set_title(f"{kind} start")


class _Plan(Plan):
    """What all parts share."""

    def count(self, full: int) -> int:
        """The number of seeds, if the whole experiment has `full`."""
        return min(full, 3) if self.quick and self.seeds is None else self.seeds or full

    def some(self, values) -> np.ndarray:
        """The values of an axis: all, or the first, the middle and the last."""
        values = np.asarray(values).round(6)
        return values[[0, len(values) // 2, -1]] if self.quick else values

    def steps(self, full: int) -> int:
        return full // 10 if self.quick else full


def _gaussian(plan: _Plan) -> xr.Dataset:
    problem = _problem()
    start = lambda key, scale: jf.init.gaussian((*[5] * 10, 1), scale=scale, key=key)
    scales = plan.some(np.linspace(0.25, 0.6, 10))
    budgets = {0.005: 40_000, 0.02: 10_000, 0.07: 4_000, 0.1: 4_000, 0.2: 2_000}
    place = plan, "gaussian", problem, start, scales
    calls = lambda: _limit(*place), lambda: _descents(*place, budgets, seeds=80)
    return _join(run_concurrently(calls)).assign_attrs(_theory(problem, 10))


def _residual(plan: _Plan) -> xr.Dataset:
    problem = _problem(readout=True)
    start = lambda key, scale: jf.init.residual(5, 10, scale=scale, key=key)
    scales = plan.some(np.linspace(0, 1.7, 10))
    budgets = dict.fromkeys((0.005, 0.02, 0.07, 0.1, 0.2), 4_000)
    place = plan, "residual", problem, start, scales
    calls = lambda: _limit(*place), lambda: _descents(*place, budgets, seeds=20)
    return _join(run_concurrently(calls)).assign_attrs(_theory(problem, 10))


def _depth(plan: _Plan) -> xr.Dataset:
    problem = _problem(readout=True)  # One readout at all depths.
    depths = (5, 10) if plan.quick else (5, 10, 20, 40)
    steps = plan.steps(1_000)

    def descent(key, depth, step_size):
        start = jf.init.residual(5, depth, scale=0.25, key=key)
        options = {"step_size": step_size, "every": steps, "observe": _observables()}
        return jf.gradient_descent(problem, start, steps, **options)

    axes = {"step_size": plan.some(np.logspace(-2, -0.3, 25))}
    static = {"depth": depths}
    runs = plan("depth", descent, seeds=plan.count(50), static=static, axes=axes)
    theory = [_theory(problem, depth) for depth in depths]
    columns = {name: ("depth", [t[name] for t in theory]) for name in theory[0]}
    return runs.assign(columns)


def _underdetermined(plan: _Plan) -> xr.Dataset:
    data = paper_data("underdetermined")
    assert data.test is not None
    problem, test = (
        jf.Regression.from_data(data.x, data.y),
        jf.Regression.from_data(*data.test),
    )
    # Their difference is that of the whole losses: what generalizes, and what does not.
    gap = {"generalization_gap": lambda loss, network: test(network) - loss(network)}
    start = lambda key, scale: jf.init.gaussian((*[20] * 5, 1), scale=scale, key=key)
    scales = plan.some(np.linspace(0.1, 0.36, 9))
    place = problem, start, scales
    slow, fast = {0.001: 40_000}, {0.004: 10_000, 0.01: 4_000}
    calls = (
        lambda: _limit(plan, "underdetermined", *place, seeds=10, also=gap),
        lambda: _descents(plan, "least-step", *place, slow, seeds=100, also=gap),
        lambda: _descents(plan, "larger-steps", *place, fast, seeds=20, also=gap),
    )
    return _join(run_concurrently(calls)).assign_attrs(_theory(problem, 5))


def _gelu(plan: _Plan) -> xr.Dataset:
    # In single precision, as the paper: none of its numbers needs more, and it halves time.
    single = lambda tree: jax.tree.map(lambda a: a.astype(jnp.float32), tree)
    data = paper_data("noiseless")
    problem = single(jf.MeanSquaredError(data.x, data.y))
    budgets = {0.005: 160_000, 0.02: 40_000, 0.07: 16_000}

    def sweep(step_size):
        steps = plan.steps(budgets[step_size])

        def descent(key, scale):
            weights = jf.init.gaussian((*[5] * 10, 1), scale=scale, key=key).weights
            start = jf.MLP(single(weights), jax.nn.gelu)
            observe = {"excess": jf.observables.excess_loss, "end": _ends}
            options = {"step_size": step_size, "every": steps, "observe": observe}
            return jf.gradient_descent(problem, start, steps, **options)

        axes = {"scale": plan.some(np.linspace(0.428, 0.7, 8))}
        runs = plan(f"gelu-{step_size}", descent, seeds=plan.count(20), axes=axes, chunk=80)
        return runs.expand_dims(step_size=[step_size])

    # Not a static axis: numbers of steps differ, so these are best done at the same time.
    runs = _join(run_concurrently(ft.partial(sweep, step_size) for step_size in budgets))
    return runs.rename({"end.lowest": "lowest", "end.sharpness": "sharpness"})


def _series(plan: _Plan) -> xr.Dataset:
    """Both kinds of starts, at one scale, recorded all the way."""
    starts = {
        "gaussian": lambda key: jf.init.gaussian((*[5] * 10, 1), scale=0.35, key=key),
        "residual": lambda key: jf.init.residual(5, 10, scale=0.5, key=key),
    }
    step_sizes, steps, every = (0.02, 0.1), 450, 5
    found = []
    for kind, start in starts.items():
        problem = _problem(readout=kind == "residual")

        def descent(key, step_size, problem=problem, start=start):
            options = {"step_size": step_size, "every": every, "observe": _observables()}
            return jf.gradient_descent(problem, start(key), steps, **options)

        def flow(key, problem=problem, start=start):
            times = max(step_sizes) * np.arange(0, steps + 1, every)
            options = {"observe": _observables(), "solver": dfx.Tsit5(), **_flow_options()}
            return jf.gradient_flow(problem, start(key), times, **options)

        axes = {"step_size": step_sizes}
        sweeps = (
            ft.partial(plan, f"series-{kind}-flow", flow, seeds=8),
            ft.partial(plan, f"series-{kind}", descent, seeds=8, axes=axes),
        )
        limit, runs = run_concurrently(sweeps)
        both = _join([limit.expand_dims(step_size=[0.0]), runs])
        found.append(both.expand_dims(start=[kind]))
    theory = _theory(_problem(), 10)
    return xr.concat(found, "start", data_vars="all").assign_attrs(theory)


def _problem(readout: bool = False) -> jf.Regression:
    data = paper_data()
    return jf.Regression.from_data(
        data.x, data.y, readout=paper_readout() if readout else None
    )


def _observables(**more: Any) -> dict[str, Any]:
    watch = {
        "excess": jf.observables.excess_loss,
        "distance": jf.observables.distance,
        "sharpness": jf.sharpness,
    }
    return watch | more


def _ends(loss, network):
    """Both ends of the Hessian's spectrum, in one search."""
    sharpness, lowest = jf.spectrum(loss, network, largest=1, smallest=1).values
    return {"lowest": lowest, "sharpness": sharpness}


def _descents(
    plan: _Plan,
    name: str,
    problem: jf.Regression,
    start: Callable,
    scales,
    budgets: dict[float, int],
    *,
    seeds: int,
    also: dict[str, Any] | None = None,
) -> xr.Dataset:
    """Descents over step sizes and scales, each read at its own number of steps.

    All go on for the largest number, so that they are one program; that is what `status`
    is about.
    """
    budgets = {step_size: plan.steps(steps) for step_size, steps in budgets.items()}
    counts = sorted({*budgets.values()})
    observe = _observables(alignment=jf.alignment) | (also or {})

    def descent(key, step_size, scale):
        options = {"step_size": step_size, "every": counts, "observe": observe}
        return jf.gradient_descent(problem, start(key, scale), counts[-1], **options)

    axes = {"step_size": tuple(budgets), "scale": scales}
    runs = plan(name, descent, seeds=plan.count(seeds), axes=axes)
    read = [
        runs.sel(step_size=[step_size]).isel(record=[0, 1 + counts.index(steps)])
        for step_size, steps in budgets.items()
    ]
    return xr.concat(read, "step_size")


def _limit(
    plan: _Plan,
    name: str,
    problem: jf.Regression,
    start: Callable,
    scales,
    *,
    seeds: int = 20,
    also: dict[str, Any] | None = None,
) -> xr.Dataset:
    """The same starts followed by the flow until it arrives, as step size 0."""
    observe = _observables(alignment=jf.alignment) | (also or {})
    # The default solver would find that it needs this one, and compile both.
    stiff = jf.dynamics.ExponentialRosenbrock(tolerance=1e-12)

    def flow(key, scale):
        options = {"observe": observe, "solver": stiff, **_flow_options()}
        return jf.gradient_flow(problem, start(key, scale), (0, float("inf")), **options)

    runs = plan(f"{name}-flow", flow, seeds=plan.count(seeds), axes={"scale": scales})
    return runs.expand_dims(step_size=[0.0])


def _join(runs: list[xr.Dataset]) -> xr.Dataset:
    """Step sizes beside each other; seeds that only some have are pending at the others."""
    both = xr.concat(runs, "step_size", join="outer", data_vars="all")
    whole = {
        name: both[name].fillna(-1).astype("int32") for name in ("status", "num_steps")
    }
    return layered(both.assign(whole))


def _flow_options() -> dict[str, Any]:
    # Nothing here needs reverse derivatives, and forward ones compile sooner.
    return {"adjoint": dfx.ForwardMode(), "throw": False}


def _theory(problem: jf.Regression, depth: int) -> dict[str, float]:
    theory = jf.papers.marion_chizat_2024
    quantities = [
        theory.sharpness_lower_bound,
        theory.flattest_sharpness,
        theory.balanced_sharpness,
        theory.critical_step_size,
    ]
    if problem.readout is None:
        quantities.append(theory.small_start_sharpness_bound)
    both = jax.jit(lambda problem: [quantity(problem, depth) for quantity in quantities])
    values = both(problem)
    return {q.__name__: float(v) for q, v in zip(quantities, values, strict=True)}


_ENDS = (
    draw.sharpness_against_scale,
    draw.distance_against_scale,
    draw.divergence_against_scale,
    draw.verdicts,
)
EXPERIMENT = Experiment(
    "Marion & Chizat (2024)",
    {
        "gaussian": Part(
            "Gaussian starts (figures 1 and 3 of the paper)",
            _gaussian,
            _rows,
            ft.partial(_panels, panels=_ENDS),
            figure_rows=2,
            cost=5,
        ),
        "residual": Part(
            "residual starts (figures 1 and 3 for them)",
            _residual,
            _rows,
            ft.partial(_panels, panels=_ENDS),
            figure_rows=2,
            cost=4,
        ),
        "depth": Part(
            "depth against step size (figure 2)",
            _depth,
            _depth_rows,
            ft.partial(
                _panels,
                panels=(draw.distance_against_step_size, draw.sharpness_against_step_size),
            ),
            cost=3,
        ),
        "underdetermined": Part(
            "fewer samples than inputs (figure 6)",
            _underdetermined,
            _rows,
            ft.partial(_panels, panels=(_ENDS[0], draw.gap_against_sharpness, *_ENDS[2:])),
            figure_rows=2,
            cost=2,
        ),
        "series": Part(
            "time series of single runs (figure 1, right)",
            _series,
            _rows,
            ft.partial(_panels, panels=(draw.distance_in_time, draw.sharpness_in_time)),
            figure_rows=2,
            cost=1,
        ),
        "gelu": Part(
            "GELU networks (the figures on nonlinear networks)",
            _gelu,
            _rows,
            ft.partial(_panels, panels=(_ENDS[0], draw.excess_against_scale, *_ENDS[2:])),
            figure_rows=2,
            cost=6,
        ),
    },
)
summary, figures = EXPERIMENT.summary, EXPERIMENT.figures
