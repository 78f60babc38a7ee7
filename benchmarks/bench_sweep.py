"""What does a sweep cost beyond its runs, and how does it grow?

Plain descents of tiny networks, 1,000 steps each, in float32, through `jaxflow.sweep`: the
time of a seed from 200 to 100,000 of them, in memory and on disk, and the largest memory of
the process so far. Each row is the second of two calls, but compiles anew.
"""

import argparse
import resource
import tempfile
import time

import jax
import jax.numpy as jnp
import jax.random as jr
from common import TINY, data, report, start

import jaxflow as jf

STEPS = 1000


def rows(options):
    x, y = data(TINY[0], 50)
    single = lambda tree: jax.tree.map(lambda a: a.astype(jnp.float32), tree)
    problem = single(jf.Regression.from_data(x, y))

    def run(key):
        first = single(start(key))
        return jf.gradient_descent(problem, first, STEPS, step_size=0.02, every=STEPS)

    for seeds in options.seeds:
        for where in ("memory", "disk"):
            with tempfile.TemporaryDirectory() as place:
                path = None if where == "memory" else f"{place}/runs"
                said = []
                clock = lambda words, said=said: said.append((time.perf_counter(), words))
                begun = time.perf_counter()
                jf.sweep(run, key=jr.key(0), seeds=seeds, path=path, progress=clock)
                seconds = time.perf_counter() - begun
            first = said[0][0] - begun
            chunks = int(said[0][1].split(" of ")[1].split()[0])
            each = (seconds - first) / max(1, seeds * (1 - 1 / chunks))
            yield {
                "case": where,
                "method": f"{seeds} seeds",
                "run_ms": 1e3 * seconds,
                "first_chunk_s": first,
                "us_per_seed": 1e6 * each,
                "m_steps_per_s": STEPS / each / 1e6,
                "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }


def main():
    jax.config.update("jax_enable_x64", True)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[200, 4000, 20000, 100000])
    parser.add_argument("--quick", action="store_true", help="200 seeds only")
    options = parser.parse_args()
    if options.quick:
        options.seeds = [200]
    report(__doc__.splitlines()[0], rows(options))


if __name__ == "__main__":
    main()
