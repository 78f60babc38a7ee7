"""What does a gradient flow cost at a given accuracy?

The error is that of the end-to-end vector at the end, relative to SciPy's DOP853 with a
relative tolerance of 1e-13. Near a minimum the flow contracts it, so `error_weights`, that
of all weights together, tells more. Everybody is given jaxflow's loss.
"""

import argparse
import functools as ft

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from common import data, measure, report, start
from jax.flatten_util import ravel_pytree
from scipy.integrate import solve_ivp

import jaxflow

FLOWS = (
    (dfx.Tsit5(), 1e-8),
    (dfx.Tsit5(), 1e-5),
    (dfx.Tsit5(), 1e-11),
    (dfx.Dopri8(), 1e-8),
    (dfx.Dopri8(), 1e-11),
    (dfx.Kvaerno5(), 1e-5),
)
SCIPY = (
    ("RK45", 1e-5),
    ("RK45", 1e-8),
    ("DOP853", 1e-8),
    ("DOP853", 1e-11),
    ("LSODA", 1e-8),
)
TRUTH = ("DOP853", 1e-13)


def flow(loss, network, end, solver, rtol):
    return jaxflow.gradient_flow(loss, network, (0, end), solver=solver, rtol=rtol)


@ft.partial(jax.jit, static_argnames="steps")
def runge_kutta(loss, network, end, steps):
    """The classical method of order four in equal steps."""
    slope = jax.grad(loss.excess)
    h = end / steps
    move = lambda w, g, size: jax.tree.map(lambda w, g: w - size * g, w, g)
    mean = lambda a, b, c, d: (a + 2 * b + 2 * c + d) / 6

    def step(w, _):
        a = slope(w)
        b = slope(move(w, a, h / 2))
        c = slope(move(w, b, h / 2))
        d = slope(move(w, c, h))
        return move(w, jax.tree.map(mean, a, b, c, d), h), None

    return jax.lax.scan(step, network, length=steps)[0]


@jax.jit
def velocity(loss, like, flat):
    """Minus the gradient at flat weights of a network `like` this."""
    _, unravel = ravel_pytree(like)
    return -ravel_pytree(jax.grad(loss.excess)(unravel(flat)))[0]


def scipy_flow(loss, network, end, method, rtol):
    """SciPy: the last network, and the gradients that it took."""
    first, unravel = ravel_pytree(network)
    solution = solve_ivp(
        lambda t, w: np.asarray(velocity(loss, network, w)),
        (0, end),
        np.asarray(first),
        method=method,
        t_eval=(end,),
        rtol=rtol,
        atol=rtol / 100,
    )
    return unravel(jnp.asarray(solution.y[:, -1])), solution.nfev


@jax.jit
def errors(network, truth):
    """Relative errors of the end-to-end vector and of all weights."""
    pairs = ((network.product, truth.product), (network, truth))
    flat = [(ravel_pytree(a)[0], ravel_pytree(b)[0]) for a, b in pairs]
    return [jnp.linalg.norm(a - b) / jnp.linalg.norm(b) for a, b in flat]


def gradients(solver, steps):
    """What the stages of an explicit method evaluate; not known for an implicit one."""
    if isinstance(solver, dfx.AbstractImplicitSolver):
        return None
    return int(steps) * (solver.tableau.num_stages - solver.tableau.fsal)


def single(loss, network, options):
    """Rows for one network."""
    found, end = [], options.end
    for solver, rtol in FLOWS[:1] if options.quick else FLOWS:
        method = f"jaxflow {type(solver).__name__} {rtol:.0e}"
        run, times = measure(flow, loss, network, end, solver, rtol)
        counts = {"steps": int(run.steps), "gradients": gradients(solver, run.steps)}
        found.append((method, run.network, times, counts))
    for steps in options.steps:
        last, times = measure(runge_kutta, loss, network, end, steps)
        counts = {"steps": steps, "gradients": 4 * steps}
        found.append((f"fixed RK4 {steps}", last, times, counts))
    for method, rtol in SCIPY[::2] if options.quick else SCIPY:
        (last, count), times = measure(scipy_flow, loss, network, end, method, rtol)
        found.append((f"scipy {method} {rtol:.0e}", last, times, {"gradients": count}))
    truth, _ = scipy_flow(loss, network, end, *TRUTH)
    for method, last, times, counts in found:
        error, error_weights = errors(last, truth)
        row = {"case": "one run", "method": method, **times}
        yield row | {"error": error, "error_weights": error_weights, **counts}


def batch(loss, networks, options):
    """Rows for many seeds at once, with medians of their errors."""
    end, count = options.end, options.seeds
    follow = lambda network: flow(loss, network, end, *FLOWS[0])
    calls = {"vmap(jaxflow Tsit5 1e-08)": eqx.filter_jit(eqx.filter_vmap(follow))}
    for steps in options.steps[1:]:
        fixed = ft.partial(runge_kutta, loss, end=end, steps=steps)
        calls[f"vmap(fixed RK4 {steps})"] = jax.jit(jax.vmap(fixed))
    seeds = [jax.tree.map(lambda w, k=k: w[k], networks) for k in range(count)]
    truths = [scipy_flow(loss, network, end, *TRUTH)[0] for network in seeds]
    truth = jax.tree.map(lambda *w: jnp.stack(w), *truths)
    for method, call in calls.items():
        ends, times = measure(call, networks)
        ends = ends.network if isinstance(ends, jaxflow.Trajectory) else ends
        error, error_weights = jax.vmap(errors)(ends, truth)
        yield {
            "case": f"{count} seeds",
            "method": method,
            **times,
            "error": jnp.median(error),
            "error_weights": jnp.median(error_weights),
            "worst_weights": jnp.max(error_weights),
            "ms_each": times["run_ms"] / count,
        }


def rows(options):
    loss = jaxflow.regression(*data(5, 50))
    starts = jax.vmap(start)(jr.split(jr.key(0), options.seeds))
    yield from single(loss, jax.tree.map(lambda w: w[0], starts), options)
    yield from batch(loss, starts, options)


def main():
    jax.config.update("jax_enable_x64", True)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--end", type=float, default=12.0, help="training time")
    parser.add_argument("--seeds", type=int, default=64, help="runs at once")
    parser.add_argument("--steps", type=int, nargs="+", default=[200, 1000, 4000])
    parser.add_argument("--quick", action="store_true", help="few seeds and solvers")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.steps = 4, [200, 1000]
    report(__doc__.splitlines()[0], rows(options))


if __name__ == "__main__":
    main()
