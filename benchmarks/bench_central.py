r"""What does a central flow cost, for a batch of seeds, beside a loop on the host?

Networks of nine 5 x 5 layers and one output on a regression with 50 samples, at step size
0.1, for as many steps as asked, in steps of at most a quarter. jaxflow follows all seeds as
one program. The peer is the published scheme with a host in the loop: for each seed and
each quarter of a step the top eigenvector by SciPy's `eigsh`, warm-started, over jitted
products; jitted slopes of the curvature; and the multiplier in closed form. It follows a
few seeds, and its time is scaled up. Descent of the same seeds is there for comparison. The
error is the largest relative difference of the predicted losses at the end.
"""

import argparse
import functools as ft

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
from common import data, measure, report, start
from jax.flatten_util import ravel_pytree
from scipy.sparse.linalg import LinearOperator, eigsh

import jaxflow as jf

STEP_SIZE, QUARTER = 0.1, 0.25


@eqx.filter_jit
def central(problem, networks, steps):
    follow = ft.partial(
        jf.central_flow,
        steps=steps,
        step_size=STEP_SIZE,
        every=steps,
        directions=1,
        observe={},
        max_step=QUARTER,
    )
    return jax.vmap(lambda network: follow(problem, network).edge.average["loss"][-1])(
        networks
    )


@eqx.filter_jit
def descent(problem, networks, steps):
    options = {"step_size": STEP_SIZE, "every": steps}
    go = lambda n: jf.gradient_descent(problem, n, steps, **options).observed["loss"][-1]
    return jax.vmap(go)(networks)


def host(problem, networks, steps):
    """One seed after the other, and one product after the other."""
    first = jax.tree.map(lambda w: w[0], networks)
    unravel = ravel_pytree(first)[1]
    value = lambda w: problem.excess(unravel(w))
    slope = jax.jit(jax.grad(value))
    product = jax.jit(lambda w, v: jax.jvp(jax.grad(value), (w,), (v,))[1])

    def along(w, u):
        inner = lambda w: jax.jvp(value, (w,), (u,))[1]
        return jax.jvp(inner, (w,), (u,))[1]

    bend = jax.jit(jax.grad(along))
    edge, ends = 2 / STEP_SIZE, []
    for k in range(len(jax.tree.leaves(networks)[0])):
        w = np.asarray(ravel_pytree(jax.tree.map(lambda x, k=k: x[k], networks))[0])
        u, swing = np.ones(w.size), 0.0
        for _ in range(round(steps / QUARTER)):
            apply = lambda v, w=w: np.asarray(product(w, v))
            operator = LinearOperator((w.size, w.size), apply, dtype=w.dtype)
            top, u = eigsh(operator, k=1, which="LA", v0=u, tol=1e-8)
            u = u[:, 0]
            down, steepening = np.asarray(slope(w)), np.asarray(bend(w, u))
            lack = (edge - top[0]) / (STEP_SIZE * QUARTER) + steepening @ down
            swing = max(0.0, -2 * lack / (steepening @ steepening))
            w = w - QUARTER * STEP_SIZE * (down + swing / 2 * steepening)
        swung = swing / 2 * (u @ np.asarray(product(w, u)))
        ends.append(float(value(w)) + swung + float(problem.floor))
    return np.array(ends)


def rows(options):
    problem = jf.Regression.from_data(*data(5, 50))
    networks = jax.vmap(start)(jr.split(jr.key(1), options.seeds))
    few = jax.tree.map(lambda w: w[: options.few], networks)
    case = f"{options.seeds} seeds, {options.steps} steps"
    ends, times = measure(central, problem, networks, options.steps, budget=0)
    yield {
        "case": case,
        "method": "jaxflow",
        **times,
        "seeds": options.seeds,
        "error": None,
    }
    theirs, times = measure(host, problem, few, options.steps, budget=0)
    times["run_ms"] *= options.seeds / options.few
    error = np.max(np.abs(theirs / np.asarray(ends[: options.few]) - 1))
    yield {"case": case, "method": "host", **times, "seeds": options.few, "error": error}
    _, times = measure(descent, problem, networks, options.steps, budget=0)
    yield {
        "case": case,
        "method": "descent",
        **times,
        "seeds": options.seeds,
        "error": None,
    }


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--few", type=int, default=2, help="seeds of the peer")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--quick", action="store_true", help="4 seeds and 20 steps")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.few, options.steps = 4, 1, 20
    report("What does a central flow cost?", rows(options))
