"""What does it take until the first result, from an empty cache of programs?

Answers of the command line and imports in processes of their own; first calls and warm ones
with the library's compiler options and without, in processes of their own too and in turn;
then the first trajectory of the README's example, and a gradient through it, by solver.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from statistics import median

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
from common import measure, report

import jaxflow as jf

PROCESSES = {
    "jax": "import jax, jax.numpy",
    "jaxflow, used": "import jax, jax.numpy, jaxflow; jaxflow.gradient_flow",
    "jaxflow, not used": "import jaxflow",
    "jaxflow --help": "import sys; sys.argv = ['jaxflow', '--help']\n"
    "from jaxflow.cli import main; main()",
    "jaxflow list": "import sys; sys.argv = ['jaxflow', 'list']\n"
    "from jaxflow.cli import main; main()",
}

# What a call needs, and the call; `compile_ms` of these is CPU time.
SETUP = """
import json, resource, time
import diffrax, jax, jax.numpy as jnp, jax.random as jr
import jaxflow as jf
jax.config.update("jax_enable_x64", True)
x = jr.normal(jr.key(0), (50, 5))
problem = jf.Regression.from_data(x, x @ jnp.ones((5, 1)))
start = jf.init.gaussian((5, 5, 5, 1), scale=0.1, key=jr.key(2))
watch = {"loss": jf.loss_value, "sharpness": jf.sharpness, "alignment": jf.alignment}
times = jnp.linspace(0.0, 20.0, 40)
wide = jf.init.gaussian((64,) * 6, scale=0.1, key=jr.key(3))
inputs = jr.normal(jr.key(4), (256, 64))
samples = jf.MeanSquaredError(inputs, inputs)
mlp = jf.MLP(wide.weights, jnp.tanh)
def descend(key):
    network = jf.init.gaussian((5, 5, 5, 1), scale=0.1, key=key)
    return jf.gradient_descent(problem, network, 2000, step_size=0.01, every=100)
def call():
    return CALL
def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
began = cpu()
jax.block_until_ready(jax.tree.leaves(call()))
first, warm = cpu() - began, []
for _ in range(5):
    began = time.perf_counter()
    jax.block_until_ready(jax.tree.leaves(call()))
    warm.append(time.perf_counter() - began)
print(json.dumps({"compile_ms": 1e3 * first, "run_ms": 1e3 * sorted(warm)[2]}))
"""
CALLS = {
    "gradient_flow": "jf.gradient_flow(problem, start, times, observe=watch).network",
    "gradient_flow, Tsit5": "jf.gradient_flow(problem, start, times, observe=watch, "
    "solver=diffrax.Tsit5()).network",
    "gradient_descent": "jf.gradient_descent(problem, start, 2000, step_size=0.01, "
    "every=100, observe=watch).network",
    "central_flow": "jf.central_flow(problem, start, 50, step_size=0.05).network",
    "sharpness": "jf.sharpness(problem, start)",
    "spectrum": "jf.spectrum(problem, start, largest=3).values",
    "gradient_descent, 20,480 weights": "jf.gradient_descent(samples, mlp, 200, "
    "step_size=0.001, every=100).network",
    "sharpness, 20,480 weights": "jf.sharpness(samples, mlp)",
    "sweep of 1,000": "jf.sweep(descend, key=jr.key(5), seeds=1000)['time'].values",
}


def first_calls(repeats, few):
    """With the library's options and without, in turn."""
    for name, call in list(CALLS.items())[: 2 if few else None]:
        found = {"options": [], "all of XLA's": []}
        for method in [*found] * repeats:
            environment = dict(os.environ)
            if method != "options":
                environment["JAXFLOW_OPTIMIZE"] = "1"
            command = [sys.executable, "-c", SETUP.replace("CALL", call)]
            done = subprocess.run(command, env=environment, capture_output=True, check=True)
            found[method].append(json.loads(done.stdout))
        for method, costs in found.items():
            cost = {key: median(each[key] for each in costs) for key in costs[0]}
            yield {"case": f"first {name}", "method": method, **cost}


def processes(repeats):
    """Each in turn, so that a busy moment meets all of them."""
    seconds = {name: [] for name in PROCESSES}
    for _ in range(repeats):
        for name, code in PROCESSES.items():
            started = time.perf_counter()
            subprocess.run(
                [sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True
            )
            seconds[name].append(time.perf_counter() - started)
    for name, times in seconds.items():
        yield {"case": "a process", "method": name, "run_ms": 1e3 * median(times)}


def rows(options):
    yield from processes(options.repeats)
    yield from first_calls(options.repeats, options.quick)
    x = jr.normal(jr.key(0), (50, 5))
    problem = jf.Regression.from_data(x, x @ jnp.ones((5, 1)))
    watch = {"loss": jf.loss_value, "sharpness": jf.sharpness, "alignment": jf.alignment}
    times = jnp.linspace(0.0, 20.0, 40)
    start = jf.init.gaussian((5, 5, 5, 1), scale=0.1, key=jr.key(2))
    solvers = {"default": {}, "Tsit5": {"solver": diffrax.Tsit5()}}
    for name, solver in solvers.items():

        def trajectory(network, solver=solver):
            return jf.gradient_flow(
                problem, network, times, observe=watch, **solver
            ).observed

        _, cost = measure(trajectory, start)
        yield {"case": "a trajectory", "method": name, **cost}
    for name, solver in solvers.items():

        @jax.jit
        @jax.grad
        def slope(scale, solver=solver):
            start = jf.init.gaussian((5, 5, 5, 1), scale=scale, key=jr.key(2))
            end = jf.gradient_flow(problem, start, (0.0, 20.0), **solver)
            return jf.sharpness(problem, end.network)

        _, cost = measure(slope, jnp.asarray(0.1))
        yield {"case": "a gradient", "method": name, **cost}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="of each process")
    parser.add_argument(
        "--quick", action="store_true", help="each process once, two first calls"
    )
    options = parser.parse_args()
    options.repeats = 1 if options.quick else options.repeats
    jax.config.update("jax_enable_x64", True)
    report("What does it take until the first result?", rows(options))
