"""What does it take until the first result, from an empty cache of programs?

Answers of the command line and imports in processes of their own; then the first trajectory
of the README's example, and a gradient through it, by solver.
"""

import argparse
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
    "from jaxflow.__main__ import main; main()",
    "jaxflow list": "import sys; sys.argv = ['jaxflow', 'list']\n"
    "from jaxflow.__main__ import main; main()",
}


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
    x = jr.normal(jr.key(0), (50, 5))
    problem = jf.regression(x, x @ jnp.ones((5, 1)))
    watch = {"loss": jf.value, "sharpness": jf.sharpness, "alignment": jf.alignment}
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
    parser.add_argument("--quick", action="store_true", help="each process once")
    options = parser.parse_args()
    options.repeats = 1 if options.quick else options.repeats
    jax.config.update("jax_enable_x64", True)
    report("What does it take until the first result?", rows(options))
