"""Whether batches of decompositions can wait for each other for ever, as they once did.

    python tests/hang.py --minutes 20
    python tests/hang.py --ordinary

A process of its own, with two cores and as many threads as XLA then takes, calls batched
observables, theory and sweeps over and over; this one ends it when it makes no call for a
while. `--ordinary` decomposes batches as `jax.numpy.linalg` does. With jaxlib 0.10 that
hangs within seconds; once it doesn't, `jaxflow/_linalg/decompositions.py` can go.
"""

import argparse
import itertools as it
import os
import queue
import subprocess
import sys
import threading
import time

# Of compiling, between two calls.
PATIENCE = 300
# Independent batches in a program, and the members of each. Of fewer and smaller ones XLA
# makes no work for several threads; from 32 on `eigh` waits for ever in its first call.
BATCHES, MEMBERS = 40, 256
# Of the data of a problem: inputs, the map, noise.
SHAPES = (50, 5), (5, 1), (50, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1, help="after compiling")
    parser.add_argument("--ordinary", action="store_true", help="batches as JAX does them")
    parser.add_argument("--patience", type=float, default=PATIENCE, help="seconds to wait")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        call_for_ever(options.ordinary)
    sys.exit(watch(options))


def watch(options):
    """Read the calls of another process, and say how many there were."""
    ours = "NPROC", "XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS"
    environment = {k: v for k, v in os.environ.items() if k not in ours}
    environment["JAX_NUM_CPU_DEVICES"] = "2"  # Of which only sweeps use the second.
    command = [sys.executable, "-u", __file__, "--child"]
    command += ["--ordinary"] if options.ordinary else []
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    lines = queue.Queue()
    threading.Thread(target=lambda: [*map(lines.put, child.stdout)], daemon=True).start()
    calls, end = 0, None
    try:
        while end is None or time.monotonic() < end:
            words = lines.get(timeout=options.patience).split()
            if words == ["compiled"]:
                end = time.monotonic() + 60 * options.minutes
            if words[:1] == ["call"]:
                calls += 1
            else:
                print(*words, flush=True)
    except queue.Empty:
        state = "hangs" if child.poll() is None else f"ended with {child.returncode}"
        print(f"{state} after {calls} calls")
        return 1
    finally:
        child.kill()
    print(f"no hang in {calls} calls")
    return 0


def call_for_ever(ordinary):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    import jax

    from jaxflow._linalg import decompositions

    jax.config.update("jax_enable_x64", True)
    if ordinary:
        decompositions.on_cpu = lambda: False
    programs = dict(made())
    for name, program in programs.items():
        print(f"compiling {name}", flush=True)
        jax.block_until_ready(program())
    print("compiled", flush=True)
    for name in it.cycle(programs):
        for _ in range(1 if name == "sweep" else 20):
            jax.block_until_ready(programs[name]())
            print("call", name, flush=True)


def made():
    """Programs by name, each with many batched decompositions at once."""
    import functools as ft

    import jax
    import jax.numpy as jnp
    import jax.random as jr

    import jaxflow as jf
    from jaxflow._linalg import decompositions as d

    def together(call, *batches):
        """Several batches of a function in one program."""
        many = jax.jit(lambda *batches: [jax.vmap(call)(*batch) for batch in batches])
        return ft.partial(many, *batches)

    keys = jr.split(jr.key(0), (BATCHES, MEMBERS))
    matrices = jax.vmap(jax.vmap(lambda key: jr.normal(key, (6, 6))))(keys)
    symmetric = matrices @ matrices.mT + jnp.eye(6)
    for name in ("eigh", "svd", "qr", "cholesky", "det", "inv"):
        yield name, together(getattr(d, name), *((a,) for a in symmetric))
    solve = lambda a: d.solve(a, d.solve_triangular(a, a))
    yield "solve", together(solve, *((a,) for a in symmetric))
    slope = lambda a: jax.grad(lambda a: jnp.sum(d.cholesky(a)) + d.eigvalsh(a)[-1])(a)
    yield "slope", together(slope, *((a,) for a in symmetric))

    def problem(key):
        pairs = zip(jr.split(key, 3), SHAPES, strict=True)
        x, w, noise = (jr.normal(k, shape) for k, shape in pairs)
        return jf.Regression.from_data(x, x @ w + noise)

    one = problem(jr.key(1))
    start = lambda key, depth=3: jf.init.gaussian((5,) * depth + (1,), scale=0.3, key=key)
    networks = [(jax.vmap(start)(k),) for k in keys[::2]]
    for observable in (
        jf.alignment,
        jf.observables.linear_gauss_newton_spectrum,
        jf.observables.singular_values,
    ):
        yield observable.__name__, together(ft.partial(observable, one), *networks)

    def theory(key):
        given, papers = problem(key), jf.papers
        yield papers.mulayoff_michaeli_2020.flattest_sharpness(given, 3)
        yield papers.mulayoff_michaeli_2020.path_gain_bounds(given, 3, 1.1)
        yield papers.marion_chizat_2024.balanced_sharpness(given, 3)
        yield papers.ziyin_li_meng_2022.minimum(given, (4, 3), decay=0.1).map

    yield "theory", together(lambda key: [*theory(key)], (keys[0],), (keys[1],))

    def run(key):
        deep = start(key, 40)
        return {
            "aligned": jf.alignment(one, deep),
            "values": jf.observables.singular_values(one, deep),
        }

    yield "sweep", lambda: jf.sweep(run, key=jr.key(3), seeds=2 * MEMBERS)


if __name__ == "__main__":
    main()
