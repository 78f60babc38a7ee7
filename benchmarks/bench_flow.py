"""Which integrator reaches a limit, and at what cost?

Everybody follows the gradient flow of jaxflow's loss until the excess is 1e-12 of that of
zero weights, with at most 100,000 steps and 10 seconds; a run that is not there by then
counts with what it spent. SciPy gets the compiled gradient and the exact Hessian. The
error is that of all weights where the run stopped, relative to the exponential method at
1e-12; LSODA at 1e-12 is beside it.
"""

import argparse
import itertools as it
import time
import warnings
from collections import Counter
from statistics import median
from typing import NamedTuple

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import numpy as np
import optimistix as optx
import scipy.integrate as si
from common import TINY, data, report
from jax.flatten_util import ravel_pytree

import jaxflow
from jaxflow.dynamics import ExponentialRosenbrock
from jaxflow.plotting.palette import color_of

STEPS, SECONDS, ARRIVED = 100_000, 10.0, 1e-12
counts, deadline = Counter(), 0.0


class Problem(NamedTuple):
    name: str
    loss: jaxflow.Regression
    start: jaxflow.DeepLinear

    @property
    def goal(self):
        """The excess to reach."""
        return ARRIVED * float(self.loss.excess(jax.tree.map(jnp.zeros_like, self.start)))


# Diffrax, through jaxflow.
class Measured(ExponentialRosenbrock):
    """Tells the host how many products it took."""

    def init(self, *args):
        super().init(*args)
        return jnp.zeros((), jnp.int32)

    def step(self, terms, t0, t1, y0, args, state, made_jump):
        y1, error, info, _, result = super().step(terms, t0, t1, y0, args, None, made_jump)
        used = jnp.sum(jnp.any(info["pieces"].basis != 0, axis=-1))
        told = jax.pure_callback(tally, state, used)
        # Nobody reads the state, and what nobody reads is not computed.
        error = jax.tree.map(lambda e: jnp.where(told < 0, jnp.inf, e), error)
        return y1, error, info, told, result


def tally(products):
    counts["products"] += int(products)
    return np.int32(0)


class CG(lx.CG):
    """Conjugate gradients for what is known to be symmetric and taken to be definite."""

    def init(self, operator, options):
        tagged = lx.TaggedLinearOperator(operator, lx.positive_semidefinite_tag)
        return super().init(tagged, options)


def late(loss, network):
    """Whether the seconds are spent, for methods with long steps."""
    del loss
    ask = lambda _: np.asarray(time.perf_counter() > deadline)
    first = jax.tree.leaves(network)[0]
    return jax.pure_callback(ask, jax.ShapeDtypeStruct((), bool), first.ravel()[0])


def stable(loss, network):
    """A step for which the stiffest direction is stable and not rattling."""
    return 3 / jaxflow.sharpness(loss, network)


# VeryChord, the default, keeps its operator in a loop, which must then be a matrix.
krylov = dfx.with_stepsize_controller_tols(optx.Newton)(linear_solver=CG(1e-3, 1e-12))
FLOWS = {
    "jaxflow": {},
    "ExpRosenbrock": {"solver": Measured(), "until": late},
    "Tsit5": {"solver": dfx.Tsit5()},
    "Tsit5 capped": {"solver": dfx.Tsit5(), "until": late, "max_step": stable},
    "Dopri8": {"solver": dfx.Dopri8(), "max_steps": 60_000},  # Some 10 seconds.
    "Kvaerno5 dense": {"solver": dfx.Kvaerno5(), "until": late},
    "Kvaerno5 CG": {"solver": dfx.Kvaerno5(root_finder=krylov), "until": late},
    "reference": {"solver": ExponentialRosenbrock(tolerance=0.0)},
}


def flow(loss, network, method, rtol, times=(0, jnp.inf)):
    # An array is traced, so that a method compiles once for all tolerances.
    rtol = rtol if method == "jaxflow" else jnp.asarray(rtol)
    options = {"max_steps": STEPS, **FLOWS[method]}
    return jaxflow.gradient_flow(loss, network, times, rtol=rtol, throw=False, **options)


def diffrax_run(problem, method, rtol):
    loss, network = problem.loss, problem.start
    # Compiling is done where there is no way to go.
    end = loss.target
    end = end if loss.readout is None else jnp.linalg.pinv(loss.readout) @ end
    there = jaxflow.init.balanced(end, network.depth, width=network.widths[1])
    _, compiling = clocked(lambda: flow(loss, there, method, rtol))
    run, seconds = repeated(lambda: flow(loss, network, method, rtol))
    steps, solver = int(run.num_steps), FLOWS[method].get("solver")
    used = {"steps": steps}
    if isinstance(solver, Measured):
        used |= {"gradients": 4 * steps, "products": counts["products"]}
    elif isinstance(solver, dfx.AbstractERK):
        used["gradients"] = steps * (solver.tableau.num_stages - solver.tableau.fsal)
    status = jaxflow.Status(int(run.status)).name
    return run.network, float(run.time[-1]), row(seconds, compiling, used, status)


def row(seconds, compiling, used, status):
    """What to print of a run, beside where and when it ended."""
    counted = {n: used.get(n) for n in ("steps", "gradients", "products", "hessians")}
    times = {"run_ms": 1e3 * seconds, "compile_ms": 1e3 * compiling}
    return {**times, **counted, "status": status}


# SciPy, around the same compiled gradient: functions of a loss, a network and flat weights.
at = lambda loss, like, w: loss.excess(ravel_pytree(like)[1](w))
excess = jax.jit(at)
velocity = jax.jit(lambda *a: -jax.grad(at, 2)(*a))
jacobian = jax.jit(lambda *a: -jax.hessian(at, 2)(*a))


def scipy_solve(problem, method, rtol, end=None):
    """Step until the excess is reached, the budget is spent, or `end` is there."""
    flat = np.asarray(ravel_pytree(problem.start)[0])
    loss, like, goal = problem.loss, problem.start, problem.goal

    def asked(what, function):
        def ask(_, w):
            counts[what] += 1
            return np.asarray(function(loss, like, w))

        return ask

    rhs, jac = asked("gradients", velocity), asked("hessians", jacobian)
    limit, tolerances = 1e12 if end is None else end, {"rtol": rtol, "atol": rtol / 100}
    solver = getattr(si, method)(rhs, 0.0, flat, limit, jac=jac, **tolerances)
    going = lambda: end is not None or excess(loss, like, solver.y) > goal
    free = lambda: time.perf_counter() < deadline and counts["steps"] < STEPS
    while solver.status == "running" and free() and going():
        solver.step()
        counts["steps"] += 1
    return solver


def scipy_run(problem, method, rtol):
    method, loss, like = method.removeprefix("scipy "), problem.loss, problem.start
    flat, unravel = ravel_pytree(like)
    call = lambda: [f(loss, like, flat) for f in (excess, velocity, jacobian)]
    _, compiling = clocked(call)
    solver, seconds = repeated(lambda: scipy_solve(problem, method, rtol))
    there = excess(loss, like, solver.y) <= problem.goal
    status = (
        "CONVERGED" if there else "FAILED" if solver.status == "failed" else "UNCONVERGED"
    )
    last = unravel(jnp.asarray(solver.y))
    return last, float(solver.t), row(seconds, compiling, counts, status)


def clocked(call, budget=SECONDS):
    """What it returns, and its seconds, which count from here."""
    global deadline
    counts.clear()
    started = time.perf_counter()
    deadline = started + budget
    value = jax.block_until_ready(call())
    return value, time.perf_counter() - started


def repeated(call):
    """What it returns, and the median of its seconds; of one run, where that is long."""
    value, seconds = clocked(call)
    if seconds > 2:
        return value, seconds
    return value, median([seconds, *(clocked(call)[1] for _ in range(4))])


def compare(problem, methods, exact=True):
    """A row for each method and tolerance, and one for the reference."""
    flat = lambda network: ravel_pytree(network)[0]
    apart = lambda a, b: jnp.linalg.norm(flat(a) - flat(b)) / jnp.linalg.norm(flat(b))
    runs, truths = [], {0.0: problem.start}
    for name, rtol in ((m, 10.0**-k) for m, digits in methods.items() for k in digits):
        run = (scipy_run if name.startswith("scipy") else diffrax_run)(problem, name, rtol)
        runs.append((f"{name} {rtol:.0e}", *run))
    ends = sorted({end for *_, end, _ in runs} | {0.0})
    for way in it.pairwise(ends if exact else ends[:1]):
        begin = truths[way[0]]
        truths[way[1]] = flow(problem.loss, begin, "reference", 1e-12, way).network
    for method, last, end, printed in runs:
        yield {
            "case": problem.name,
            "method": method,
            **printed,
            "excess": problem.loss.excess(last) * ARRIVED / problem.goal,
            "error": apart(last, truths[end]) if end in truths else None,
            "time": end,
        }
    if exact:
        end = runs[0][2]
        call = lambda: scipy_solve(problem, "LSODA", 1e-12, end).y
        last = ravel_pytree(problem.start)[1](jnp.asarray(clocked(call, budget=60)[0]))
        error = apart(last, truths[end])
        name = "reference, LSODA 1e-12"
        yield {"case": problem.name, "method": name, "run_ms": None, "error": error}


def together(name, loss, starts):
    """A batch against its members, one after the other."""
    count = len(jax.tree.leaves(starts)[0])
    one = lambda network: flow(loss, network, "jaxflow", 1e-8)
    members = [jax.tree.map(lambda w, k=k: w[k], starts) for k in range(count)]
    calls = {
        f"jaxflow, batch of {count}": lambda: eqx.filter_vmap(one)(starts),
        "jaxflow, one by one": lambda: [one(network) for network in members],
    }
    for method, call in calls.items():
        first = clocked(call)[1]
        found, seconds = repeated(call)
        runs = found if isinstance(found, list) else [found]
        good = sum(int(jnp.sum(run.status == jaxflow.Status.CONVERGED)) for run in runs)
        used = {"steps": sum(int(jnp.sum(run.num_steps)) for run in runs)}
        printed = row(seconds, max(first - seconds, 0), used, f"{good} of {count} arrived")
        yield {"case": name, "method": method, **printed}


# Problems.
def tiny(scale, seed=0):
    return jaxflow.init.gaussian(TINY, scale=scale, key=jr.key(seed))


def others():
    """All problems but the easy and the stiff one."""
    normal = lambda key, *shape: jr.normal(jr.key(key), shape)
    # Inputs whose covariance is the identity, or has a condition number.
    white = lambda inputs: 50**0.5 * jnp.linalg.qr(normal(2, 50, inputs))[0]
    for condition in (1e2, 1e4, 1e6):
        x = white(5) * condition ** (-jnp.arange(5) / 8)
        loss = jaxflow.Regression.from_data(x, x @ jnp.full(5, 5**-0.5))
        yield Problem(f"condition {condition:.0e}", loss, tiny(0.35))
    yield Problem("3 samples", jaxflow.Regression.from_data(*data(5, 3)), tiny(0.35))
    loss = jaxflow.Regression.from_data(*data(5, 50), readout=normal(3, 1, 5) / 5**0.5)
    layers = jaxflow.init.residual(5, 40, scale=1.0, key=jr.key(0))
    yield Problem("40 layers", loss, layers)
    # A determinant below zero, which layers that start at the identity never reach.
    turn = jnp.linalg.qr(normal(4, 3, 3))[0]
    target = turn @ jnp.diag(jnp.array([1.5, 1.0, -0.5])) @ turn.T
    loss = jaxflow.Regression.from_data(white(3), white(3) @ target.T)
    yield Problem("reflection", loss, jaxflow.DeepLinear((jnp.eye(3),) * 3))


# For the easy and the stiff problem, and what of it goes on to the others.
EVERY = {
    "jaxflow": (8, 4, 6, 10),
    "ExpRosenbrock": (4, 6, 8, 10),
    "Tsit5": (4, 6, 8, 10),
    "Tsit5 capped": (8,),
    "Dopri8": (6, 8, 10),
    "Kvaerno5 dense": (4, 6),
    "Kvaerno5 CG": (4, 6, 8),
    "scipy LSODA": (4, 6, 8, 10),
    "scipy BDF": (4, 6, 8),
    "scipy Radau": (4, 6, 8),
}
FEW = {"jaxflow": (8,), "Tsit5": (8,), "scipy LSODA": (6, 8), "scipy BDF": (6,)}
SOME = {**FEW, "ExpRosenbrock": (6,), "Kvaerno5 CG": (6,)}


def rows(options, found):
    plain = jaxflow.Regression.from_data(*data(5, 50))
    easy, stiff = Problem("easy", plain, tiny(0.35)), Problem("stiff", plain, tiny(0.6))
    for problem in (easy, stiff):
        quick = options.quick
        for line in compare(problem, FEW if quick else EVERY, exact=not quick):
            found.append(line)
            yield line
    if options.quick:
        return
    if options.figure:
        draw(found, options.figure)
    for seed in (1, 2, 3):
        yield from compare(Problem(f"stiff, seed {seed}", plain, tiny(0.6, seed)), SOME)
    gaussians = eqx.filter_vmap(lambda s, k: jaxflow.init.gaussian(TINY, scale=s, key=k))
    keys = jnp.stack([jr.key(k) for k in range(20)])
    yield from together("stiff, 4 seeds", plain, gaussians(jnp.full(4, 0.6), keys[:4]))
    mixed = gaussians(jnp.linspace(0.35, 0.6, 20), keys)
    yield from together("scales 0.35 to 0.6", plain, mixed)
    for problem in others():
        if problem.start.widths != TINY:
            jax.clear_caches()  # Linux maps only so many compiled programs.
        flat = problem.name == "reflection"
        yield from compare(problem, FEW if flat else SOME, exact=not flat)


def draw(found, path):
    """Work against precision, on the easy and on the stiff problem."""
    import matplotlib.pyplot as plt

    options = {"sharex": True, "sharey": True, "layout": "constrained"}
    figure, axes = plt.subplots(1, 2, figsize=(10, 5), **options)
    for ax, case in zip(axes, ("easy", "stiff"), strict=True):
        for k, method in enumerate(EVERY):
            some = [r for r in found if (r["case"], r["method"][:-6]) == (case, method)]
            some.sort(key=lambda r: float(r["method"][-5:]))
            x, y = np.array([(r["run_ms"] / 1e3, float(r["error"])) for r in some]).T
            there = np.array([r["status"] == "CONVERGED" for r in some])
            style = {"color": color_of(k), "marker": "os^<vDdPX*"[k], "ms": 7 - (k > 0)}
            line = {"lw": 1.2 + 1.2 * (k == 0), "ls": "-" if k < 7 else "--"}
            ax.plot(x[there], y[there], label=method, **line, **style)
            ax.plot(x[~there], y[~there], ls="", mfc="white", **style)
        ax.axvline(SECONDS, color="0.6", ls=":", label="budget")
        ax.set(xscale="log", yscale="log", xlabel="wall time of a run, compiled (s)")
        ax.set_title(f"{case}: Gaussian start of scale {0.35 if case == 'easy' else 0.6}")
        ax.grid(color="0.92", lw=0.6)
    axes[0].set_ylabel("relative error of all weights at the end")
    axes[0].plot([], [], "o", mfc="white", mec="0.4", label="did not arrive")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right", frameon=False)
    figure.suptitle(
        "To a limit, with errors below 1e-8: jaxflow costs what explicit methods do where "
        "they work (left)\nand the least where they crawl (right); along a line the "
        "tolerance falls from 1e-4 to at most 1e-10",
        fontsize=11,
    )
    figure.savefig(path, dpi=100)


def main():
    jax.config.update("jax_enable_x64", True)
    warnings.filterwarnings("ignore", module="scipy")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few methods, no errors")
    parser.add_argument("--figure", metavar="PATH", help="draw work against precision")
    options = parser.parse_args()
    report(__doc__.splitlines()[0], rows(options, []))


if __name__ == "__main__":
    main()
