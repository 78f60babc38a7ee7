r"""What descent does above $2/\eta$, beside the flow and the central flow.

Where the sharpness would rise above $2/\eta$, descent oscillates and leaves the gradient
flow. The central flow (Cohen et al., 2025) predicts its average: the loss, the sharpness
and the size of the oscillation. Here they are side by side from the same starts, also
where the prediction fails; with Kreisler et al.'s (2023) gradient-flow sharpness, which
falls; and for momentum and Adam, whose central flow is an extension of ours.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jax.flatten_util import ravel_pytree

import jaxflow as jf

from .._experiment import Experiment, Part, Plan, fan_in, labeled
from ..data import digits, load_data, paper_data
from . import figures as draw
from .errors import SETTLED, errors, rises

# Steps between two records, and to average over.
EVERY, WINDOW = 5, 20
TRAJECTORIES = ("descent", "central flow", "gradient flow")


def run(
    *,
    only: tuple[str, ...] | None = None,
    seeds: int | None = None,
    seed: int = 0,
    quick: bool = False,
    sweep: Callable[..., xr.Dataset] | None = None,
    progress: Callable[[str], Any] = print,
) -> xr.DataTree:
    """Descents at the edge of stability, beside their central and gradient flows.

    Args:
        only: Some of `edge`, `transient`, `digits`, `limits` and `optimizers`. By default
            all of them.
        seeds: Random starts, instead of 8, 8, 3, 4 and 3.
        seed: Which random numbers.
        quick: Fewer steps and seeds: a look.
        sweep: How to sweep: `jaxflow.sweep`, which it is by default, with a name first.
        progress: Told what is under way.

    Returns:
        A tree with a dataset for each part. Loss and oscillation of descent are means over
        20 steps around each record; its sharpness is at the center of three iterates.

    Raises:
        ValueError: If `only` names something else, or `seeds` is not positive.
    """
    plan = _Plan(jax.random.key(seed), seeds, quick, sweep)
    return EXPERIMENT.run(only, plan, progress)


def headline(tree: xr.DataTree) -> str:
    """What theory predicts, in a few lines."""
    del tree
    return (
        "Where the gradient flow sharpens beyond 2 / step size, descent oscillates around "
        "a path that does not. The central\nflow predicts that path, the average loss and "
        "the size of the oscillation to leading order, once it has set in:\n"
        f"errors are medians and maxima from {SETTLED} steps after arrival at the edge "
        "on. Of momentum and Adam it is an\nextension of ours."
    )


class _Plan(Plan):
    """What all parts share."""

    def steps(self, full: int) -> int:
        return min(full, 120) if self.quick else full


def _edge(plan: _Plan) -> xr.Dataset:
    return _linear(plan, "edge", scale=0.35, step_size=0.1)


def _transient(plan: _Plan) -> xr.Dataset:
    return _linear(plan, "transient", scale=0.45, step_size=0.07)


def _linear(plan: _Plan, name: str, *, scale: float, step_size: float) -> xr.Dataset:
    """A linear network of ten layers, on the data of Marion & Chizat (2024)."""
    steps, loss = plan.steps(440), _problem()

    def compare(key):
        options = {"steps": steps, "step_size": step_size, "directions": 2}
        return _beside(loss, _start(key, scale), flow=True, **options)

    return _labeled(
        plan(name, compare, seeds=plan.count(8)), steps, scale=scale, step_size=step_size
    )


def _digits(plan: _Plan) -> xr.Dataset:
    """Three layers, that tell zeros, ones and twos of 4 x 4 pixels apart."""
    images, labels = digits()
    samples, classes = 100, 3
    some = np.flatnonzero(labels < classes)[:samples]
    # Means of pixels, two by two.
    x = images[some].reshape(samples, 4, 2, 4, 2).mean(axis=(2, 4))
    x = x.reshape(samples, 16)
    x = (x - x.mean(axis=0)) / x.std()
    loss = jf.MeanSquaredError(x, np.eye(classes)[labels[some]])
    steps = plan.steps(300)
    networks = {"GELU": (jax.nn.gelu, 0.5), "tanh": (jnp.tanh, 0.3)}

    def compare(key, network):
        activation, step_size = network
        drawn = fan_in((16, 10, 10, classes), key, scale=0.5)
        start = jf.MLP(drawn.weights, activation)
        options = {"steps": steps, "step_size": step_size, "directions": 3}
        return _beside(loss, start, flow=True, **options)

    runs = plan("digits", compare, seeds=plan.count(3), static={"network": networks})
    sizes = [step_size for _, step_size in networks.values()]
    return _labeled(runs, steps).assign_coords(step_size=("network", sizes))


def _limits(plan: _Plan) -> xr.Dataset:
    """The sharpness of iterates, and of where the gradient flow from them ends."""
    loss = _problem()
    steps = (5, 10, 14, 18, 20, 30, 50, 100, 200, 440)
    steps = steps[:6] if plan.quick else steps
    observe = {"limit": jf.dynamics.at_flow_limit(jf.sharpness), "sharpness": jf.sharpness}

    def descend(key):
        options = {"step_size": 0.1, "every": steps, "observe": observe}
        return jf.gradient_descent(loss, _start(key, 0.35), steps[-1], **options)

    runs = plan("limits", descend, seeds=plan.count(4)).rename(record="step")
    return runs.assign_coords(step=np.array([0, *steps])).assign_attrs(threshold=20.0)


def _optimizers(plan: _Plan) -> xr.Dataset:
    """A tanh network with one output, by three more optimizers."""
    data = load_data("cancer")
    loss, steps = jf.MeanSquaredError(data.x, data.y), plan.steps(300)
    optimizers = {
        "momentum": (eqx.Partial(optax.sgd, momentum=0.9), 0.2),
        "RMSProp": (eqx.Partial(optax.rmsprop, decay=0.99), 0.006),
        "Adam": (eqx.Partial(optax.adam, b2=0.99), 0.03),
    }

    def compare(key, optimizer):
        chosen, step_size = optimizer
        start = jf.MLP(fan_in((data.x.shape[1], 8, 1), key).weights, jnp.tanh)
        options = {"steps": steps, "step_size": step_size, "directions": 3}
        return _beside(loss, start, optimizer=chosen, **options)

    runs = plan(
        "optimizers", compare, seeds=plan.count(3), static={"optimizer": optimizers}
    )
    sizes = [step_size for _, step_size in optimizers.values()]
    return _labeled(runs, steps).assign_coords(step_size=("optimizer", sizes))


def _problem() -> jf.Regression:
    data = paper_data()
    return jf.Regression.from_data(data.x, data.y)


def _start(key, scale: float) -> jf.DeepLinear:
    return jf.init.gaussian((*[5] * 10, 1), scale=scale, key=key)


def _beside(
    loss, network, *, steps, step_size, directions, optimizer=None, flow=False
) -> dict[str, Any]:
    """Descent, its central flow, and the gradient flow, from one start."""
    optimizer = optimizer or optax.sgd
    further = steps + WINDOW // 2
    watch = {"loss": jf.loss_value, "network": jf.weights}
    options = {"step_size": step_size, "optimizer": optimizer, "observe": watch}
    descent = jf.gradient_descent(loss, network, further, **options).observed
    unravel = ravel_pytree(network)[1]
    iterates = jax.vmap(lambda tree: ravel_pytree(tree)[0])(descent["network"])
    # For any optimizer what `time_averaged` and `oscillation_variance` do for descent.
    centers = (iterates[:-2] + 2 * iterates[1:-1] + iterates[2:]) / 4
    centers = jnp.pad(centers, ((1, 1), (0, 0)), mode="edge")
    squares = jnp.sum((iterates - centers)[1:-1] ** 2, axis=1)
    squares = jnp.pad(squares, 1, mode="edge")
    mean, places = _windows(further), slice(0, steps + 1, EVERY)
    sharpness = lambda w: jf.sharpness(loss, unravel(w))
    options = {"step_size": step_size, "optimizer": optimizer, "every": EVERY}
    options |= {"directions": directions, "observe": {"sharpness": jf.sharpness}}
    central = jf.central_flow(loss, network, steps, **options)
    edge = central.edge
    assert edge is not None
    found = {
        "loss": [mean @ descent["loss"], edge.average["loss"]],
        "sharpness": [
            jax.lax.map(sharpness, centers[places]),
            central.observed["sharpness"],
        ],
        "oscillation": [mean @ squares, jnp.sum(edge.modes, axis=1)],
    }
    if flow:
        times = jnp.arange(0.0, steps + 1, EVERY) * step_size
        watch = {"loss": jf.loss_value, "sharpness": jf.sharpness}
        smooth = jf.gradient_flow(loss, network, times, observe=watch, throw=False)
        for name in ("loss", "sharpness"):
            found[name].append(smooth.observed[name])
        found["oscillation"].append(jnp.zeros_like(times))
    return {name: jnp.stack(rows) for name, rows in found.items()} | {
        "corrected": edge.corrected,
        "eigenvalues": edge.eigenvalues,
        "modes": edge.modes,
        "threshold": edge.threshold,
        "gap": edge.gap[-1],
        "violation": edge.violation[-1],
        "saturated": edge.saturated,
        "failed": ~central.ok,
    }


def _windows(steps: int) -> Any:
    """What takes steps to means around records, shorter ones next to the start."""
    middles = np.arange(0, steps - WINDOW // 2 + 1, EVERY)
    half = np.minimum(middles, WINDOW // 2)[:, None]
    away = np.arange(steps + 1)[None] - middles[:, None]
    inside = (away >= -half) & (away < np.maximum(half, 1))
    return inside / inside.sum(axis=1, keepdims=True)


def _labeled(runs: xr.Dataset, steps: int, **attrs: float) -> xr.Dataset:
    """Quantities with the names of their axes."""
    axes = {str(name): {} for name in runs.data_vars} | {
        name: {f"{name}_0": "trajectory", f"{name}_1": "step"}
        for name in ("loss", "sharpness", "oscillation")
    }
    axes |= {"corrected": {"corrected_0": "step"}}
    axes |= {"eigenvalues": {"eigenvalues_0": "step", "eigenvalues_1": "rank"}}
    axes |= {"modes": {"modes_0": "step", "modes_1": "mode"}}
    runs = labeled(runs, axes).assign_attrs(runs.attrs)
    places = {"step": np.arange(0, steps + 1, EVERY)}
    places |= {"trajectory": list(TRAJECTORIES[: runs.sizes["trajectory"]])}
    return runs.assign_coords(places).assign_attrs(attrs)


def _comparison_rows(runs):
    axis = next((d for d in ("network", "optimizer") if d in runs.dims), None)
    cases = [None] if axis is None else runs[axis].to_numpy()
    for case in cases:
        some = runs if axis is None else runs.sel({axis: case})
        wrong = errors(some)
        late = wrong.where(wrong.since >= SETTLED)
        row = {
            "case": "deep linear" if case is None else case,
            "at the edge": f"{int(wrong.since.notnull().any('step').sum())} of "
            f"{some.sizes['seed']}",
        }
        if case in ("momentum", "Adam"):
            row["case"] += " (ours)"
        for name in ("loss", "sharpness", "corrected sharpness", "oscillation"):
            middle, most = float(late[name].median()), float(late[name].max())
            row[name] = f"{middle:.1%}, {most:.1%}" if middle == middle else "-"
        if case in ("RMSProp", "Adam"):  # It is of preconditioned eigenvalues.
            row["corrected sharpness"] = "-"
        row |= {
            "gap": f"{float(some.gap.max()):.1e}",
            "violation": f"{float(some.violation.max()):.1e}",
            "saturated": "yes" if bool(some.saturated.any()) else "no",
            "failed": str(int(some.failed.sum())),
        }
        yield row


def _limits_rows(runs):
    limit = runs.limit.isel(seed=0)
    yield {
        "case": "deep linear",
        "finding": f"from {float(limit[0]):.2f} to {float(limit[-1]):.2f}; largest rise "
        f"between records {float(rises(runs).max()):.2%}",
    }


EXPERIMENT = Experiment(
    "Edge of stability",
    {
        "edge": Part(
            "a deep linear network that is held at 2 / step size",
            _edge,
            _comparison_rows,
            draw.edge,
            figure_rows=2,
            cost=3,
        ),
        "transient": Part(
            "a start from which oscillations come too late for the central flow",
            _transient,
            _comparison_rows,
            draw.transient,
            figure_rows=2,
            cost=2,
        ),
        "digits": Part(
            "GELU and tanh networks that learn digits",
            _digits,
            _comparison_rows,
            draw.digits,
            figure_rows=3,
            cost=5,
        ),
        "limits": Part(
            "the sharpness where the gradient flow from each iterate would end",
            _limits,
            _limits_rows,
            draw.limits,
            cost=1,
        ),
        "optimizers": Part(
            "RMSProp, and by our extension momentum and Adam, on breast cancer",
            _optimizers,
            _comparison_rows,
            draw.optimizers,
            figure_rows=2,
            cost=4,
        ),
    },
)
summary, figures = EXPERIMENT.summary, EXPERIMENT.figures
