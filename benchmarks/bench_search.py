r"""How many patterns a second do the algorithms learn from that look for solutions?

Four runs of a tree committee at once, on one problem, each from weights of its own: least
action, without noise and with; cross-entropy on spheres in mini-batches of a tenth of the
patterns; and message passing, of which an iteration is an epoch. Two patterns are the same
but for their labels, so that no run solves the problem and stops. The peers are the same
rules in numpy, for all four runs at once, given the order and the noise that jaxflow draws.
The error is the relative difference of weights from jaxflow's after one epoch (of message
passing three), the worst of the runs.
"""

import argparse
import functools as ft

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from common import measure, report
from scipy.special import log_ndtr, logsumexp

import jaxflow as jf

RUNS, RATE, STEP, GROWTH = 4, 0.03, 1.0, 0.05
REPLICAS, DAMPING = 20.0, 0.5
# Units, inputs and patterns.
LARGE, SMALL = (9, 999, 999), (5, 205, 123)


def problem(sizes, dtype):
    """Patterns, one of them there with both labels, and starts and keys of the runs."""
    hidden, inputs, samples = sizes
    loss = jf.committee.random_patterns(samples - 1, inputs, key=jr.key(0))
    x, y = jnp.concatenate([loss.x, loss.x[:1]]), jnp.concatenate([loss.y, -loss.y[:1]])
    keys = jr.split(jr.key(1), RUNS)
    draw = lambda key: jf.init.committee(hidden, inputs, key=key)
    cast = lambda tree: jax.tree.map(lambda a: a.astype(dtype), tree)
    return cast(jf.committee.Classification(x, y)), cast(jax.vmap(draw)(keys)), keys


def growing(per, count):
    """Robustness and gain of cross-entropy, which grow with every epoch."""
    return STEP * (1 + GROWTH) ** jnp.floor(count / per)


def couplings(epochs):
    return np.geomspace(0.1, 100, 60)[:epochs]


@eqx.filter_jit
def with_jaxflow(algorithm, loss, networks, keys, epochs):
    quiet = {"observe": {"errors": jf.committee.error_rate}}
    batch = loss.samples // 10
    per, n = loss.samples // batch, networks.weights.shape[-1]

    def learn(network, key):
        if algorithm == "messages":
            focusing = jf.committee.Focusing(REPLICAS, couplings(epochs))
            options = {"damping": DAMPING, "every": epochs}
            return jf.committee.focusing_bp(loss, network, focusing, **options, **quiet)
        if algorithm == "cross-entropy":
            schedule = eqx.Partial(growing, per)
            annealed = jf.losses.Scheduled(loss, gain=schedule, robustness=schedule)
            options = {
                "optimizer": optax.chain(
                    optax.sgd(STEP * n), jf.committee.fixed_row_norms()
                )
            }
            options |= {
                "batch_size": batch,
                "every": epochs * per,
                "until": jf.committee.zero_training_error,
            }
            steps = epochs * per
            return jf.gradient_descent(
                annealed, network, steps, key=key, **options, **quiet
            )
        noise = 0.2 if algorithm == "least action, noise" else 0.0
        options = {"step_size": RATE, "noise": noise, "every": epochs}
        return jf.committee.least_action_learning(
            loss, network, epochs, key=key, **options, **quiet
        )

    return eqx.filter_vmap(learn)(networks, keys)


def drawn(loss, hidden, keys, epochs, *, split):
    """The orders of patterns that jaxflow draws, and its noise, for each epoch and run."""

    def draw(key, count):
        key = jr.fold_in(key, count)
        order, noise = jr.split(key) if split else (key, key)
        shape = (loss.samples, hidden)
        return jr.permutation(order, loss.samples), jr.normal(noise, shape, loss.x.dtype)

    each = jax.vmap(jax.vmap(draw, (0, None)), (None, 0))
    return [np.asarray(a) for a in each(keys, jnp.arange(epochs))]


def least_action_learning(x, y, weights, orders, noises, noise):
    """Patterns one by one, of all runs at once: of shape (runs, units, inputs)."""
    weights = weights.copy()
    _, hidden, n = weights.shape
    x = x.reshape(len(x), hidden, n)
    squares = np.sum(x**2, axis=2)
    for order, drawn in zip(orders, noises, strict=True):
        for place in range(len(x)):
            chosen = order[:, place]
            given, label = x[chosen], y[chosen, None]
            fields = np.einsum("skn,skn->sk", weights, given) / n**0.5
            if noise:
                size = np.einsum("skn,skn->sk", weights, weights) / n
                fields += noise * drawn[:, place] * np.sqrt(size * squares[chosen] / n)
            against = label * fields <= 0
            need = np.sum(against, axis=1) - hidden // 2
            if not np.any(need > 0):
                continue
            cost = np.where(against, np.abs(fields), np.inf)
            rank = np.argsort(np.argsort(cost, axis=1), axis=1)
            moves = RATE * label * (against & (rank < need[:, None]))
            weights += moves[:, :, None] * given
    return weights


def cross_entropy(x, y, weights, orders, batch):
    weights = weights.copy()
    _, hidden, n = weights.shape
    norms = np.linalg.norm(weights, axis=2, keepdims=True)
    x = (y[:, None] * x).reshape(len(x), hidden, n)
    for epoch, order in enumerate(orders):
        gain = STEP * (1 + GROWTH) ** epoch
        for first in range(0, len(x) - batch + 1, batch):
            given = x[order[:, first : first + batch]].swapaxes(1, 2)
            fields = np.einsum("skbn,skn->skb", given, weights) / n**0.5
            units = np.tanh(gain * fields)
            margins = np.sum(units, axis=1, keepdims=True) / hidden**0.5
            wrong = 1 / (1 + np.exp(2 * gain * margins))
            slopes = wrong * gain * (1 - units**2) / (batch * (hidden * n) ** 0.5)
            weights += STEP * n * np.einsum("skb,skbn->skn", slopes, given)
            weights *= norms / np.linalg.norm(weights, axis=2, keepdims=True)
    return weights


def messages(x, y, weights, epochs):
    runs, hidden, n = weights.shape
    # Units first, so that fields are products of matrices.
    x = (y[:, None] * x).reshape(len(x), hidden, n).swapaxes(0, 1).copy()
    weights = best = weights.swapaxes(0, 1) / 100
    sizes = np.sum(x**2, axis=2)[:, None] / n
    variance, pull = np.ones((hidden, runs, 1), x.dtype), 0
    for coupling in couplings(epochs).astype(x.dtype):
        spread = variance * sizes
        means = weights @ x.swapaxes(1, 2) / x.dtype.type(n**0.5) - spread * pull
        new, slope = pulls(means, spread)
        pull = DAMPING * pull + (1 - DAMPING) * new
        precision = np.sum(sizes * slope, axis=2, keepdims=True) / n
        field = pull @ x / x.dtype.type(n**0.5) + precision * weights
        size = np.mean(field**2, axis=2, keepdims=True)
        gain = 1 + (x.dtype.type(REPLICAS) - 1) * share(size, coupling)
        precision = on_sphere(size * gain**2)
        best, weights = field / np.sqrt(size), gain / precision * field
        variance = np.maximum(1 / precision, 1e-4)
    return best.swapaxes(0, 1)


def pulls(means, variances):
    deviations = np.sqrt(variances)
    z = np.clip(means / deviations, -30, 30)
    yes, no, hidden = log_ndtr(z), log_ndtr(-z), len(z)
    right = logsumexp(counts(yes, no)[hidden // 2 + 1 :], axis=0)
    others = [np.delete(np.arange(hidden), k) for k in range(hidden)]
    ties = [counts(yes[rest], no[rest])[hidden // 2] for rest in others]
    normal = -(z**2 + np.log(2 * np.pi * variances)) / 2
    pull = np.exp(normal + np.stack(ties) - right)
    return pull, pull * (pull + z / deviations)


def counts(yes, no):
    """The log probability of each number of successes."""
    found = np.stack([no[0], yes[0]])
    for more, less in zip(yes[1:], no[1:], strict=True):
        both = np.logaddexp(found[1:] + less, found[:-1] + more)
        found = np.concatenate([found[:1] + less, both, found[-1:] + more])
    return found


def on_sphere(size):
    return (1 + np.sqrt(1 + 4 * size)) / 2


def share(size, coupling):
    """Of a field, what a replica learns from another, by bisection of its logit."""
    low, high = np.full_like(size, -50), np.full_like(size, 50)
    for _ in range(60):
        logit = (low + high) / 2
        part, rest = 1 / (1 + np.exp(-logit)), 1 / (1 + np.exp(logit))
        precision = on_sphere(size * (1 + (REPLICAS - 1) * part) ** 2)
        center = on_sphere(size * (REPLICAS * coupling * rest / precision) ** 2)
        fall = np.log(center * precision) - np.log(rest)
        above = logit + fall - 2 * np.log(coupling) > 0
        low, high = np.where(above, low, logit), np.where(above, logit, high)
    return 1 / (1 + np.exp(-low))


def with_numpy(algorithm, loss, networks, keys, epochs):
    """A call of the rule in numpy, with everything at hand that is drawn."""
    x, y, weights = (np.asarray(a) for a in (loss.x, loss.y, networks.weights))
    if algorithm == "messages":
        return ft.partial(messages, x, y, weights, epochs)
    split = algorithm != "cross-entropy"
    hidden = weights.shape[1]
    orders, noises = drawn(loss, hidden, keys, epochs, split=split)
    if algorithm == "cross-entropy":
        return ft.partial(cross_entropy, x, y, weights, orders, len(x) // 10)
    noise = 0.2 if algorithm == "least action, noise" else 0.0
    return ft.partial(least_action_learning, x, y, weights, orders, noises, noise)


def rows(options):
    names = ("least action", "least action, noise", "cross-entropy", "messages")
    for sizes in [SMALL] if options.quick else [LARGE, SMALL]:
        for dtype in (jnp.float64, jnp.float32):
            given = problem(sizes, dtype)
            for name in names:
                yield from case(name, sizes, given, options.epochs)


def case(name, sizes, given, epochs):
    hidden, inputs, samples = sizes
    few = 3 if name == "messages" else 1
    run = with_jaxflow(name, *given, few)
    ends = run.network.weights, with_numpy(name, *given, few)()
    found, wanted = (np.asarray(end, np.float64).reshape(RUNS, -1) for end in ends)
    gaps = np.linalg.norm(found - wanted, axis=1) / np.linalg.norm(found, axis=1)
    calls = {
        "jaxflow": ft.partial(with_jaxflow, name, *given, epochs),
        "numpy": with_numpy(name, *given, epochs),
    }
    for method, call in calls.items():
        _, times = measure(call)
        yield {
            "case": f"{name}, {hidden} x {inputs // hidden}, {given[0].x.dtype}",
            "method": method,
            **times,
            "k_patterns_per_s": RUNS * samples * epochs / times["run_ms"],
            "error": gaps.max() if method == "numpy" else None,
        }


def main():
    jax.config.update("jax_enable_x64", True)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=40, help="of each run, at most 60")
    parser.add_argument("--quick", action="store_true", help="the small committee only")
    options = parser.parse_args()
    if options.quick:
        options.epochs = min(options.epochs, 10)
    report(__doc__.splitlines()[0], rows(options))


if __name__ == "__main__":
    main()
