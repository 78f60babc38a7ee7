"""Train one deep linear network, live, beside what theory says of where it ends.

`marimo run notebooks/explorer.py` opens it in a browser.
"""

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="full", app_title="jaxflow explorer")

with app.setup:
    import base64
    import contextlib
    import functools
    import io
    import os
    import sys
    import time
    from pathlib import Path

    if "jax" not in sys.modules:
        # As the command line does: what has been compiled is kept for the next time.
        _caches = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_caches / "jaxflow"))
        # What calls Python to raise an error is not kept; verdicts come without that.
        os.environ.setdefault("EQX_ON_ERROR", "nan")
        # Singular values of small matrices take threads longer than one alone.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import jax.random as jr
    import marimo as mo
    import numpy as np
    import optax
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    import jaxflow as jf
    from jaxflow.papers.data import load_data

    jax.config.update("jax_enable_x64", True)

    # An odd number of steps between records, so that oscillations of period two show.
    RECORDS = 100
    STEPS = (100, 300, 900, 2700, 8100)
    OBSERVE = {
        "loss": jf.loss_value,
        "excess": jf.observables.excess_loss,
        "sharpness": jf.sharpness,
        "alignment": jf.alignment,
    }
    WORDS = {
        jf.Status.CONVERGED: "converged to a minimum",
        jf.Status.UNCONVERGED: "is still moving: the run is too short",
        jf.Status.OSCILLATING: "oscillates: its steps cancel, and it does not settle",
        jf.Status.SADDLE: "is at a saddle: it hardly moves, but the loss can be lower",
        jf.Status.COLLAPSED: "collapsed: it predicts what zero weights do",
        jf.Status.DIVERGED: "diverged: its weights grew without bound",
        jf.Status.MAX_STEPS: "was not followed to the end: the integrator spent its steps",
        jf.Status.FAILED: "was not followed to the end: the integrator gave up",
    }
    # Colors that the color-blind can tell apart, and dashes for those who see none.
    RUNS = {
        "gradient descent": {"color": "#0072B2", "lw": 2.2},
        "gradient flow": {"color": "black", "lw": 1.5, "ls": "--"},
        "central flow": {"color": "#CC79A7", "lw": 2.2, "ls": "-."},
    }
    LEVELS = {
        "edge": ("edge of stability", {"color": "#0072B2", "ls": ":"}),
        "flattest": ("flattest minimum", {"color": "#009E73", "ls": "-"}),
        "balanced": ("balanced minimum", {"color": "#D55E00", "ls": "--"}),
    }
    MINIMA = {
        "flattest": eqx.filter_jit(jf.papers.marion_chizat_2024.flattest_sharpness),
        "balanced": eqx.filter_jit(jf.papers.marion_chizat_2024.balanced_sharpness),
    }
    # Seconds that compiling took, by what was compiled.
    compiled = {}


@app.function
def pose(program):
    """The problem, and what theory says of the sharpness of its minima."""
    x, y, *_ = load_data(program["data"])
    width = x.shape[1]
    # Residual layers are square, and need a readout behind them, which is not trained.
    readout = np.full(width, width**-0.5) if program["start"] == "residual" else None
    problem = jf.Regression.from_data(x, y, readout=readout)
    depth = program["depth"]
    return problem, {name: float(find(problem, depth)) for name, find in MINIMA.items()}


@app.function
def draw(start, width, depth, scale, seed):
    """The weights to start from."""
    widths, key = (*[width] * depth, 1), jr.key(seed)
    if start == "gaussian":
        return jf.init.gaussian(widths, scale=scale / width**0.5, key=key)
    if start == "residual":
        return jf.init.residual(width, depth, scale=scale, key=key)
    kinds = {"orthogonal": jf.init.orthogonal, "balanced": jf.init.balanced_rank_one}
    return kinds[start](widths, scale=scale, key=key)


@app.function
def train(name, problem, program, numbers):
    """One run, by the name of its dynamics."""
    steps, width = program["steps"], problem.covariance.shape[0]
    every, step_size = steps // RECORDS, numbers["step_size"]
    # A slider says 0 as an integer, which would be another program than 0.05.
    scale, momentum = float(numbers["scale"]), float(numbers["momentum"])
    start = draw(program["start"], width, program["depth"], scale, numbers["seed"])
    if name == "gradient flow":
        # Steps with momentum go as far as others that are longer by this.
        times = step_size / (1 - momentum) * np.arange(0, steps + 1, every)
        return jf.gradient_flow(problem, start, times, observe=OBSERVE, throw=False)
    dynamics = jf.gradient_descent if name == "gradient descent" else jf.central_flow
    # As an array, another momentum is another number, and not another program.
    optimizer = eqx.Partial(optax.sgd, momentum=jnp.asarray(momentum))
    options = {"step_size": step_size, "every": every, "optimizer": optimizer}
    return dynamics(problem, start, steps, observe=OBSERVE, **options)


@app.function
def clocked(name, problem, program, numbers):
    """A run, and the seconds it takes without what compiling took."""

    def take():
        began = time.perf_counter()
        run = jax.block_until_ready(train(name, problem, program, numbers))
        return run, time.perf_counter() - began

    run, seconds = take()
    if (name, *program.values()) not in compiled:
        first, (run, seconds) = seconds, take()
        compiled[name, *program.values()] = max(first - seconds, 0.0)
    return run, seconds


@app.function
def ending(run):
    """How a run ended, in numbers."""
    last = {name: float(np.min(values[-1])) for name, values in run.observed.items()}
    return {"status": jf.Status(int(run.status)), **last}


@app.function
def verdict(ends, limits):
    """How all runs ended, in words."""
    said = []
    for name, end in ends.items():
        text = f"{name.capitalize()} **{WORDS[end['status']]}**."
        if np.isfinite(end["sharpness"]):
            ratio = end["sharpness"] / limits["flattest"]
            text += f" Its sharpness is {ratio:.3g} times that of the flattest minimum."
        said.append(text)
    if limits["edge"] < limits["flattest"]:
        said.append("No minimum is flat enough for descent with this step size to settle.")
    return "\n\n".join(said)


@app.function
def tabulate(ends, seconds, program):
    """The numbers behind the verdict, in Markdown."""
    columns = {
        "loss": "loss",
        "excess": "above its floor",
        "sharpness": "sharpness",
        "alignment": "least alignment",
    }
    number = lambda x: f"{x:.4g}" if np.isfinite(x) else "not finite"
    lines = [
        f"| at the end of | {' | '.join(columns.values())} | ran in | compiled in |",
        "|:--" + "|--:" * (len(columns) + 2) + "|",
    ]
    for name, end in ends.items():
        shown = [number(end[column]) for column in columns]
        times = (
            f"{1000 * seconds[name]:.0f} ms",
            f"{compiled[name, *program.values()]:.1f} s",
        )
        lines.append(f"| {' | '.join((name, *shown, *times))} |")
    return "\n".join(lines)


@app.function
def picture(runs, limits, steps):
    """Loss, sharpness and alignment, step by step."""
    figure = Figure(figsize=(11, 3.8))
    figure.subplots_adjust(0.055, 0.22, 0.99, 0.92, wspace=0.2)
    loss, sharpness, alignment = figure.subplots(1, 3)
    taken = np.linspace(0, steps, RECORDS + 1)
    for name, run in runs.items():
        seen, style = run.observed, {"label": name, **RUNS[name]}
        loss.plot(taken, seen["excess"], **style)
        sharpness.plot(taken, seen["sharpness"], **style)
        alignment.plot(taken, seen["alignment"], **{**style, "lw": 1.2})
    for name, (label, style) in LEVELS.items():
        label = f"{label}: {limits[name]:.4g}"
        sharpness.axhline(limits[name], lw=1.4, label=label, **style)
    confine(loss, decades=14)
    confine(sharpness, decades=3)
    sharpness.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    alignment.set_ylim(-0.03, 1.03)
    titles = "loss above its floor", "sharpness", "alignment of neighboring layers"
    for axes, title in zip(figure.axes, titles, strict=True):
        axes.set_title(title, y=1.02)  # Where it is told to be is found sooner.
        axes.set_xlabel("steps")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    legend = {"fontsize": 9, "ncols": 6, "columnspacing": 1.5, "frameon": False}
    figure.legend(handles=sharpness.lines, loc="lower center", **legend)
    return figure


@app.function
def confine(axes, *, decades):
    """A logarithmic axis for all that is drawn, but no more of a divergence than fits."""
    curves = [np.asarray(line.get_ydata(), float) for line in axes.lines]
    start = max(curve[0] for curve in curves)
    known = np.concatenate(curves)
    known = known[(known > 0) & (known < 1e3 * start)]
    axes.set_yscale("log")
    if known.size:
        high = 2 * known.max()
        axes.set_ylim(max(known.min() / 2, high / 10**decades), high)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")


@app.cell
def _():
    mo.md("""
    # How flat does training end?

    One deep linear network, trained by gradient descent, beside the gradient flow from the
    same start and what theory says of all minima (Marion & Chizat, 2024).
    """)
    return


@app.cell
def _():
    _data = {
        "synthetic, 5 inputs": "paper",
        "diabetes, 10 inputs": "diabetes",
        "tumours, 30 inputs": "cancer",
        "digits, 61 inputs": "digits",
    }
    _starts = ("gaussian", "orthogonal", "residual", "balanced")
    _step_sizes = [float(f"{10**power:.2g}") for power in np.arange(-3, 0.31, 0.05)]
    _slider = functools.partial(mo.ui.slider, show_value=True, full_width=True)
    program_controls = mo.ui.dictionary(
        {
            "data": mo.ui.dropdown(_data, "diabetes, 10 inputs", label="data"),
            "start": mo.ui.dropdown(_starts, "gaussian", label="start"),
            "depth": _slider(2, 10, value=3, debounce=True, label="depth"),
            "steps": mo.ui.dropdown({str(n): n for n in STEPS}, "300", label="steps"),
        }
    )
    number_controls = mo.ui.dictionary(
        {
            "scale": _slider(0, 3, 0.05, value=1, label="scale of the initialization"),
            "step_size": _slider(steps=_step_sizes, value=0.16, label="step size"),
            "momentum": _slider(0, 0.95, 0.05, value=0, label="momentum"),
            "seed": _slider(0, 99, value=0, label="seed of the start"),
        }
    )
    beside_controls = mo.ui.dictionary(
        {
            "gradient flow": mo.ui.checkbox(True, label="gradient flow"),
            "central flow": mo.ui.checkbox(False, label="central flow (takes seconds)"),
        }
    )
    _parts = [
        mo.md("**Shows at once**"),
        number_controls.vstack(),
        mo.md("**Compiles first, once**"),
        program_controls.vstack(),
        mo.md("**Beside gradient descent**"),
        beside_controls.vstack(),
    ]
    mo.sidebar(mo.vstack(_parts, gap=1), width="20rem")
    return beside_controls, number_controls, program_controls


@app.cell
def _(program_controls):
    program = program_controls.value
    return (program,)


@app.cell
def _(number_controls):
    numbers = number_controls.value
    return (numbers,)


@app.cell
def _(beside_controls):
    beside = [name for name, wanted in beside_controls.value.items() if wanted]
    return (beside,)


@app.cell
def _(program):
    problem, minima = pose(program)
    return minima, problem


@app.cell
def _(beside, numbers, problem, program):
    names = "gradient descent", *beside
    runs, seconds = {}, {}
    for _name in names:
        _known = (_name, *program.values()) in compiled
        _title = f"Compiling {_name}"
        with contextlib.nullcontext() if _known else mo.status.spinner(_title):
            runs[_name], seconds[_name] = clocked(_name, problem, program, numbers)
    ends = {_name: ending(run) for _name, run in runs.items()}
    return ends, runs, seconds


@app.cell
def _(ends, minima, numbers):
    _edge = jf.observables.stability_threshold(
        numbers["step_size"], momentum=numbers["momentum"]
    )
    limits = {**minima, "edge": float(_edge)}
    words = verdict(ends, limits)
    _status = ends["gradient descent"]["status"]
    _else = "danger" if _status == jf.Status.DIVERGED else "warn"
    _kind = "success" if _status == jf.Status.CONVERGED else _else
    mo.callout(mo.md(words), kind=_kind)
    return limits, words


@app.cell
def _(limits, program, runs, words):
    _began = time.perf_counter()
    _svg = io.BytesIO()
    picture(runs, limits, program["steps"]).savefig(_svg, format="svg")
    drawn_in = time.perf_counter() - _began
    # Inside the page: a file of its own would be gone before a moving slider stops.
    _url = f"data:image/svg+xml;base64,{base64.b64encode(_svg.getvalue()).decode()}"
    mo.image(_url, alt=words.replace("**", ""), width="100%")
    return (drawn_in,)


@app.cell
def _(drawn_in, ends, program, seconds, words):
    lines = tabulate(ends, seconds, program)
    if not mo.running_in_notebook():
        print(words, lines, sep="\n\n")
    mo.md(f"{lines}\n\nDrawn in {1000 * drawn_in:.0f} ms.")
    return (lines,)


@app.cell
def _():
    _text = mo.md(r"""
    - **Start**: *gaussian*, entries of standard deviation scale / √width; *orthogonal*,
      orthogonal layers times the scale; *residual*, the identity plus normal entries of
      standard deviation scale / √(depth × width), before a fixed readout; *balanced*,
      aligned layers of rank one and norm scale.
    - **Steps**: the flow is shown at the training time of each step, which is step size /
      (1 − momentum). The central flow is the average of descent where it oscillates.
    - **Loss** is the mean squared error; its floor is that of the best linear map.
    - **Sharpness** is the largest eigenvalue of the Hessian. Descent is unstable above the
      edge of stability, 2 (1 + momentum) / step size. The flattest minimum is the flattest
      of all; small starts tend to the balanced one.
    - **Alignment** is that of the top singular vectors of two neighboring layers, from 0
      to 1, with a line for each pair.
    """)
    mo.accordion({"What is what": _text})
    return


if __name__ == "__main__":
    app.run()
