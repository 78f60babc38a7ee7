"""Does what holds on a CPU hold on a GPU, and what does it cost there?

    pip install '.[cuda13]' && python benchmarks/gpu.py --out gpu.json

Takes at most ten minutes on a bare machine. Every check runs in float32 with JAX's default
settings and in float64, beside the same program on the CPU of the machine. Nothing but the
package is needed. With `JAX_PLATFORMS=cpu` and `--quick` it tries itself.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import jaxflow as jf

WIDTHS = (5, 5, 5, 5, 1)


def problem(dtype):
    kx, kw, kn = jr.split(jr.key(0), 3)
    x = jr.normal(kx, (50, 5), dtype)
    return jf.Regression.from_data(
        x, x @ jr.normal(kw, (5, 1), dtype) + jr.normal(kn, (50, 1), dtype)
    )


def starts(count, dtype, widths=WIDTHS):
    draw = lambda key: jf.init.gaussian(widths, scale=0.4, key=key)
    found = jax.vmap(draw)(jr.split(jr.key(1), count))
    return jax.tree.map(lambda w: w.astype(dtype), found)


def sharpness(loss, networks):
    return jax.vmap(lambda n: jf.sharpness(loss, n))(networks)


def spectrum(loss, networks):
    return jax.vmap(lambda n: jf.spectrum(loss, n))(networks)


def flows(loss, networks):
    run = lambda n: jf.gradient_flow(loss, n, (0.0, 20.0), throw=False)
    return jax.vmap(run)(networks)


def descents(loss, networks):
    run = lambda n: jf.gradient_descent(loss, n, 1000, step_size=0.02, every=1000)
    return jax.vmap(run)(networks)


def alignments(loss, networks):
    return jax.vmap(lambda n: jf.alignment(loss, n))(networks)


# Programs, and how far results of two kinds of device may be apart, relative to their size,
# for one rounding `eps`: those of descents grow over the steps, and those of flows are
# their tolerance, which is near the root.
CASES = {
    "sharpness": (sharpness, lambda eps: 1e3 * eps),
    "alignment": (alignments, lambda eps: 1e3 * eps),
    "descent": (descents, lambda eps: 1e4 * eps),
    "flow": (flows, lambda eps: 100 * eps**0.5),
}


def measured(function, *arguments):
    """The result on the host, and seconds: of the first call, and the median of five."""
    started = time.perf_counter()
    out = jax.block_until_ready(function(*arguments))
    first, warm = time.perf_counter() - started, []
    for _ in range(5):
        started = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        warm.append(time.perf_counter() - started)
    return jax.tree.map(np.asarray, out), {
        "first_s": first,
        "run_s": float(np.median(warm)),
    }


def on(device, function, *arguments):
    """Of a function that is traced for this device."""
    jax.clear_caches()
    with jax.default_device(device):
        return measured(jax.jit(function), *jax.device_put(arguments, device))


def apart(found, expected):
    """The largest difference, relative to the largest entry of each array."""
    worst = 0.0
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, float), np.asarray(b, float)
        scale = np.max(np.abs(b), initial=0) or 1.0
        worst = max(worst, float(np.max(np.abs(a - b), initial=0)) / scale)
    return worst


def compare(dtype, count):
    """Rows for each program: results beside those of the CPU, and what each took."""
    here, cpu = jax.devices()[0], jax.devices("cpu")[0]
    loss, networks = problem(dtype), starts(count, dtype)
    for name, (function, allow) in CASES.items():
        found, cost = on(here, function, loss, networks)
        expected, beside = on(cpu, function, loss, networks)
        kept = [getattr(x, "network", x) for x in (found, expected)]
        gap, allowed = apart(*kept), allow(float(jnp.finfo(dtype).eps))
        row = {"case": name, "dtype": dtype.__name__, "members": count, "apart": gap}
        row |= {"allowed": allowed, **cost, "cpu_run_s": beside["run_s"]}
        agree = gap <= allowed
        if hasattr(found, "status"):
            row["statuses_differ"] = int(np.sum(found.status != expected.status))
            agree &= row["statuses_differ"] == 0
        yield row | {"passed": bool(agree)}


def bounds(dtype, count):
    """Whether eigenvalues are as close to dense ones, in float64, as their bounds say."""
    here, cpu = jax.devices()[0], jax.devices("cpu")[0]
    loss, networks = problem(dtype), starts(count, dtype)
    found, cost = on(here, spectrum, loss, networks)
    exactly = lambda tree: jax.tree.map(lambda x: x.astype(jnp.float64), tree)
    dense = lambda loss, ns: jax.vmap(lambda n: jf.hessian(loss, n).as_matrix())(ns)
    with jax.default_device(cpu):
        matrices = jax.jit(dense)(*jax.device_put(exactly((loss, networks)), cpu))
    top = np.linalg.eigvalsh(np.asarray(matrices))[:, -1]
    errors = np.abs(found.values[:, 0].astype(float) - top)
    kept = found.converged
    row = {"case": "bounds", "dtype": dtype.__name__, "members": count, **cost}
    row |= {"converged": float(np.mean(kept)), "error": float(np.max(errors / top))}
    row["passed"] = bool(np.all(errors[kept] <= found.bounds[kept, 0]) and np.any(kept))
    return row


def swept(dtype, count):
    """A sweep beside the same runs by hand, on the same device."""
    loss = problem(dtype)

    def run(key):
        start = jf.init.gaussian(WIDTHS, scale=0.4, key=key)
        start = jax.tree.map(lambda w: w.astype(dtype), start)
        watch = {"sharpness": jf.sharpness}
        options = {"step_size": 0.02, "every": 1000, "observe": watch}
        return jf.gradient_descent(loss, start, 1000, **options)

    started = time.perf_counter()
    found = jf.sweep(run, key=jr.key(1), seeds=count)
    seconds = time.perf_counter() - started
    expected = jax.jit(jax.vmap(run))(jr.split(jr.key(1), count))
    gap = apart(found["sharpness"].values, expected.observed["sharpness"])
    allowed = 1e4 * float(jnp.finfo(dtype).eps)
    same = np.array_equal(found["status"].values, expected.status)
    row = {"case": "sweep", "dtype": dtype.__name__, "members": count, "apart": gap}
    return row | {
        "allowed": allowed,
        "run_s": seconds,
        "passed": bool(gap <= allowed and same),
    }


def throughput(dtype, count):
    """What a batch of descents costs: millions of steps a second of all networks."""
    loss, networks = problem(dtype), starts(count, dtype)
    _, cost = on(jax.devices()[0], descents, loss, networks)
    rate = count * 1000 / cost["run_s"] / 1e6
    row = {"case": "descent, throughput", "dtype": dtype.__name__, "members": count}
    return row | {**cost, "million_steps_per_s": rate, "passed": math.isfinite(rate)}


def rows(options):
    count, sizes = (8, (64,)) if options.quick else (256, (1024, 16_384, 131_072))
    for dtype in (jnp.float32, jnp.float64):
        yield bounds(dtype, count)
        yield from compare(dtype, count)
        yield swept(dtype, count)
        for size in sizes:
            yield throughput(dtype, size)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="where to write")
    parser.add_argument("--quick", action="store_true", help="few members, one size")
    parser.add_argument("--minutes", type=float, default=9, help="begin no case after")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    started, done = time.monotonic(), []
    machine = {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
    for row in rows(options):
        print(json.dumps(row), flush=True)
        done.append(row)
        spent = time.monotonic() - started
        whole = {**machine, "seconds": spent, "rows": done}
        options.out.write_text(json.dumps(whole, indent=2) + "\n")
        if spent > 60 * options.minutes:
            print("out of time", flush=True)
            break
    sys.exit(not all(row["passed"] for row in done))


if __name__ == "__main__":
    main()
