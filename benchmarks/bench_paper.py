"""How long does the whole of Marion & Chizat (2024) take, and how long did it?

The command line is timed as a whole, in a fresh process that finds nothing compiled.
Beside it stand slices of the loop that the paper's public code runs, written anew: a Python
loop over jitted steps of one network at a time, in float32, from samples, with 20 power
iterations every 5 steps. A slice is extrapolated by the paper's number of steps.
"""

import argparse
import functools as ft
import json
import os
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import jax.random as jr
from common import report

import jaxflow as jf
from jaxflow.papers.data import paper_data, paper_readout
from jaxflow.papers.marion_chizat_2024.experiment import EXPERIMENT

# What the published script asks for: millions of steps of each kind of network.
MILLIONS = {
    "gaussian": 13.2,
    "residual": 4.0,
    "depth 5": 1.25,
    "depth 10": 1.25,
    "depth 20": 1.25,
    "depth 40": 1.25,
    "underdetermined": 38.52,
    "gelu": 34.56,
}


def slices():
    """A loss, a start and a step size for each kind of network."""
    single = lambda tree: jax.tree.map(lambda a: a.astype(jnp.float32), tree)
    loss = lambda problem, **options: single(
        jf.MeanSquaredError(*paper_data(problem)[:2], **options)
    )
    gaussian = lambda widths, scale: jf.init.gaussian(widths, scale=scale, key=jr.key(0))
    residual = lambda depth: jf.init.residual(5, depth, scale=0.25, key=jr.key(0))
    tiny, read = (5,) * 10 + (1,), loss("linear", readout=paper_readout())
    yield "gaussian", loss("linear"), single(gaussian(tiny, 0.35)), 0.02
    yield "residual", read, single(residual(10)), 0.02
    for depth in (5, 10, 20, 40):
        yield f"depth {depth}", read, single(residual(depth)), 0.01
    few = single(gaussian((20,) * 5 + (1,), 0.2))
    yield "underdetermined", loss("underdetermined"), few, 0.001
    curved = jf.MLP(single(gaussian(tiny, 0.5)).weights, jax.nn.gelu)
    yield "gelu", loss("noiseless"), curved, 0.005


@ft.partial(jax.jit, static_argnums=0)
def step(treedef, leaves, network, size):
    loss = jax.tree.unflatten(treedef, leaves)
    slope = jax.grad(loss.excess)(network)
    return jax.tree.map(lambda w, g: w - size * g, network, slope)


@ft.partial(jax.jit, static_argnums=0)
def power_iterations(treedef, leaves, network, vector):
    loss = jax.tree.unflatten(treedef, leaves)
    size = jnp.zeros(())
    for _ in range(20):
        vector = jax.jvp(jax.grad(loss.excess), (network,), (vector,))[1]
        size = jnp.sqrt(sum(jnp.sum(v**2) for v in jax.tree.leaves(vector)))
        vector = jax.tree.map(lambda v, size=size: v / size, vector)
    return size


def reference_loop(loss, network, size, steps):
    leaves, treedef = jax.tree.flatten(loss)
    vector = jax.tree.map(jnp.ones_like, network)
    for k in range(steps):
        if k % 5 == 0:
            float(power_iterations(treedef, leaves, network, vector))
        network = step(treedef, leaves, network, size)
    return jax.block_until_ready(network)


def whole(words):
    """Wall seconds of a command in a fresh process with nothing compiled before."""
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", "jaxflow", *words, "--out", f"{place}/out"]
        started = time.perf_counter()
        subprocess.run(command, check=True, env={**os.environ, "XDG_CACHE_HOME": place})
        return time.perf_counter() - started


def rows(options):
    linear = [name for name in EXPERIMENT.parts if name != "gelu"]
    words = ["run", "marion-chizat-2024", *(["--quick"] if options.quick else [])]
    for case, more in (("linear", ["--only", *linear]), ("all", [])):
        seconds = whole([*words, *more])
        yield {"case": case, "method": "jaxflow", "run_ms": 1e3 * seconds}
        if options.quick:
            return
    totals = {"linear": 0.0, "all": 0.0}
    for name, loss, network, size in slices():
        reference_loop(loss, network, size, 10)  # Compiles.
        started = time.perf_counter()
        reference_loop(loss, network, size, options.steps)
        each = (time.perf_counter() - started) / options.steps
        seconds = each * MILLIONS[name] * 1e6
        print(f"{name}: {MILLIONS[name]} M steps x {1e6 * each:.0f} us = {seconds:.0f} s")
        totals["all"] += seconds
        totals["linear"] += seconds if name != "gelu" else 0
    print(json.dumps({"extrapolated_s": totals}))
    for case, seconds in totals.items():
        yield {"case": case, "method": "reference loop", "run_ms": 1e3 * seconds}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=500, help="of a slice")
    parser.add_argument("--quick", action="store_true", help="the small linear part only")
    options = parser.parse_args()
    report(__doc__.splitlines()[0], rows(options))


if __name__ == "__main__":
    main()
