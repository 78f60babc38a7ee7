"""How many network-steps a second, and which part of what the machine can do?

A network-step is one step of gradient descent of one network. The error is the median over
networks of the relative error of all weights at the end, against the scan in float64,
which takes jaxflow's loss and shares nothing else with its `gradient_descent`. jaxflow
records the loss at the start and the end, or at every step, and says how each run ended;
peers record nothing. `of_matmul` is the useful arithmetic, six operations a weight and
step, over that of a large matrix product in the same precision.
"""

import argparse
import functools as ft
import itertools as it

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from common import TINY, data, measure, report, start

import jaxflow

RATE = 0.02
REFERENCE = "scan"
LONGEST = 2_000_000  # Network-steps that the slow peers are asked for.


def cast(tree, dtype):
    """The same numbers in another precision."""
    return jax.tree.map(lambda a: a.astype(dtype), tree)


def over(function, keys):
    """One run for one key, a batch of them for many."""
    return eqx.filter_vmap(function) if keys.ndim else function


@eqx.filter_jit
def with_jaxflow(loss, keys, widths, dtype, steps, every):
    def run(key):
        first = cast(start(key, widths), dtype)
        options = {"step_size": RATE, "every": every}
        return jaxflow.gradient_descent(loss, first, steps, **options)

    return over(run, keys)(keys)


@eqx.filter_jit
def with_scan(loss, keys, widths, dtype, steps):
    def step(network, _):
        slope = jax.grad(loss.excess)(network)
        return jax.tree.map(lambda w, g: w - RATE * g, network, slope), None

    def run(key):
        return jax.lax.scan(step, cast(start(key, widths), dtype), length=steps)[0]

    return over(run, keys)(keys)


def with_loop(loss, keys, widths, dtype, steps):
    networks = draw(keys, widths, dtype)
    for _ in range(steps):
        networks = optax_step(loss, networks, keys)
    return networks


@eqx.filter_jit
def draw(keys, widths, dtype):
    return over(lambda key: cast(start(key, widths), dtype), keys)(keys)


@jax.jit
def optax_step(loss, networks, keys):
    optimizer = optax.sgd(RATE)  # It has no state.

    def step(network):
        slope = jax.grad(loss.excess)(network)
        update, _ = optimizer.update(slope, optimizer.init(network))
        return optax.apply_updates(network, update)

    return over(step, keys)(networks)


@jax.jit
def relative_errors(networks, truth):
    square = lambda tree: sum(jnp.sum(w**2, (-2, -1)) for w in jax.tree.leaves(tree))
    gap = jax.tree.map(lambda a, b: a.astype(b.dtype) - b, networks, truth)
    return jnp.sqrt(square(gap) / square(truth))


def case(name, widths, samples, count, steps):
    """Rows for `count` networks at once, or one alone."""
    x, y = data(widths[0], samples)
    keys = jr.split(jr.key(0), count) if count > 1 else jr.key(0)
    found = []
    for dtype in (jnp.float64, jnp.float32):
        moments = cast(jaxflow.Regression.from_data(x, y), dtype)
        raw = cast(jaxflow.MeanSquaredError(x, y), dtype)
        run = (keys, widths, dtype, steps)
        calls = {
            "jaxflow": ft.partial(with_jaxflow, moments, *run, steps),
            "scan": ft.partial(with_scan, moments, *run),
        }
        if count * steps <= LONGEST:
            calls["jaxflow, every step"] = ft.partial(with_jaxflow, moments, *run, 1)
            calls["optax loop"] = ft.partial(with_loop, moments, *run)
            calls["optax loop, samples"] = ft.partial(with_loop, raw, *run)
        for method, call in calls.items():
            found.append((method, dtype, *measure(call)))
    truth = next(ends for method, _, ends, _ in found if method == REFERENCE)
    weights = sum(a * b for a, b in it.pairwise(widths))
    for method, dtype, ends, times in found:
        ends = ends.network if isinstance(ends, jaxflow.Trajectory) else ends
        yield {
            "case": f"{name}, {jnp.dtype(dtype).name}",
            "method": method,
            **times,
            "m_steps_per_s": count * steps / times["run_ms"] / 1e3,
            "of_matmul": 6 * weights * count * steps / times["run_ms"] * 1e3 / best(dtype),
            "error": jnp.median(relative_errors(ends, truth)),
        }


@ft.cache
def best(dtype):
    """Operations a second of a large matrix product."""
    square = jnp.ones((2048, 2048), dtype)
    _, times = measure(jax.jit(jnp.matmul), square, square)
    return 2 * 2048**3 / times["run_ms"] * 1e3


def rows(options):
    wide = (options.width,) * 4 + (1,)
    if not options.quick:
        yield from case("1 tiny", TINY, 50, 1, options.steps)
    for count in options.batches:
        yield from case(f"{count} tiny", TINY, 50, count, options.steps)
    if not options.quick:
        yield from case(f"8 of width {options.width}", wide, 256, 8, options.steps // 10)


def main():
    jax.config.update("jax_enable_x64", True)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000, help="of a batch")
    parser.add_argument("--batches", type=int, nargs="+", default=[200, 4000])
    parser.add_argument("--width", type=int, default=64, help="of the wider networks")
    parser.add_argument("--quick", action="store_true", help="one small batch")
    options = parser.parse_args()
    if options.quick:
        options.batches = [20]
    report(__doc__.splitlines()[0], rows(options))


if __name__ == "__main__":
    main()
