r"""What does a phase diagram of exact minima cost, beside a loop of SciPy's root finding?

Global minima of Ziyin, Li & Meng (2022) on a grid of decays and variances of the noise,
10,000 of them, for one problem; and for as many problems as there are points. The peer
scans the scalar equation on a grid of 400 points, as one must to miss no root, and calls
`scipy.optimize.brentq` between changes of sign; it does a part, and its time is scaled up.
The error is the largest difference of losses, over those of the part, relative.
"""

import argparse
import functools as ft

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from common import measure, report
from scipy.optimize import brentq

import jaxflow as jf
from jaxflow.papers import ziyin_li_meng_2022 as theory

INPUTS, WIDTH = 5, 4


def problem(key):
    """A floor above zero, and inputs of different variances."""
    keys = jr.split(key, 3)
    x = jr.normal(keys[0], (50, INPUTS)) * jnp.linspace(0.3, 2.0, INPUTS)
    y = x @ jr.normal(keys[1], (INPUTS, 1)) + 0.5 * jr.normal(keys[2], (50, 1))
    return jf.Regression.from_data(x, y)


def brent(hidden, given, decay, variance):
    """The least loss of the roots of the scalar equation, and the origin."""
    covariance, target = np.asarray(given.covariance), np.asarray(given.target[0])
    values, axes = np.linalg.eigh(covariance)
    signal = axes.T @ covariance @ target
    power = float(given.floor) + target @ covariance @ target
    kept, length = (WIDTH / (WIDTH + variance)) ** hidden, np.linalg.norm(signal)

    def curve(log):
        scale = np.exp(log)
        ridge = signal / (np.multiply.outer(scale**hidden, values) / kept + decay)
        return (hidden - 1) * log + np.log(np.sum(ridge**2, axis=-1))

    low = 2 / (hidden - 1) * np.log(decay / length) - 1 if hidden > 1 else -80.0
    high = 2 / (hidden + 1) * np.log(kept * length / values[0]) + 1
    grid = np.linspace(low, max(low, high), 400)
    signs = np.sign(curve(grid))
    least = power
    for k in np.flatnonzero(signs[1:] != signs[:-1]):
        scale = np.exp(brentq(curve, grid[k], grid[k + 1], xtol=1e-14))
        ridge = signal / (values + kept * decay / scale**hidden)
        least = min(least, power - kept * signal @ ridge + hidden * decay * scale)
    return least


def rows(options):
    side = int(options.points**0.5)
    decays, variances = jnp.geomspace(1e-3, 3.0, side), jnp.linspace(0.0, 2.0, side)
    points = [grid.ravel() for grid in jnp.meshgrid(decays, variances)]
    one = problem(jr.key(0))
    many = jax.vmap(problem)(jr.split(jr.key(1), side**2))
    for hidden in options.hidden:
        widths = (WIDTH,) * hidden

        def exact(given, decay, variance, widths=widths):
            return theory.minimum(given, widths, variance=variance, decay=decay).loss

        for case, given, axis in (("one problem", one, None), ("many problems", many, 0)):
            case = f"{case}, {hidden} hidden"
            run = jax.jit(jax.vmap(exact, in_axes=(axis, 0, 0)))
            found, times = measure(run, given, *points)
            yield {"case": case, "method": "jaxflow", **times, "points": found.size}
            some = np.random.default_rng(0).permutation(found.size)[: options.part]

            each = [given if axis is None else _take(given, k) for k in some]
            numbers = [np.asarray(p)[some] for p in points]

            def loop(each=each, numbers=numbers, hidden=hidden):
                return np.array(list(map(ft.partial(brent, hidden), each, *numbers)))

            wanted, times = measure(loop)
            times["run_ms"] *= found.size / len(some)
            yield {
                "case": case,
                "method": "scipy brentq",
                "run_ms": times["run_ms"],
                "points": len(some),
                "error": np.max(np.abs(found[some] / wanted - 1)),
            }


def _take(problems, k):
    return jax.tree.map(lambda a: np.asarray(a[k]), problems)


def main():
    jax.config.update("jax_enable_x64", True)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--part", type=int, default=200, help="points that SciPy does")
    parser.add_argument("--hidden", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--quick", action="store_true", help="two hidden layers only")
    options = parser.parse_args()
    if options.quick:
        options.hidden, options.part = [2], 50
    report(__doc__.splitlines()[0], rows(options))


if __name__ == "__main__":
    main()
