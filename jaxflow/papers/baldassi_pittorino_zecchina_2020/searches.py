"""The algorithms that look for solutions of two-class problems, with their settings.

Settings are those for which the reference outcomes of the tests were measured: they are
not quoted from a paper.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax

import jaxflow as jf

from ..._linalg import decompositions

# By name: in the order of how wide their minima are.
LEAST_ACTION, ENTROPIC = "LAL", "entropic LAL"
FAST, SLOW, FOCUSING, WHOLE = "CE fast", "CE slow", "fBP", "fBP, to the end"
FREE, REPLICAS, ENTROPY_SGD = "CE, free norm", "CE, replicated", "entropy-SGD"
ALGORITHMS = (LEAST_ACTION, ENTROPIC, FAST, SLOW, FOCUSING, WHOLE)
BASELINES = (FREE, REPLICAS, ENTROPY_SGD)


def find(
    name: str,
    loss: jf.committee.Classification,
    network: jf.committee.Committee,
    *,
    key: Any,
    most: int,
    patience: int = 5,
) -> jf.Trajectory:
    """Weights without a mistake, by an algorithm, in at most so many epochs.

    Networks whose units see the same inputs need smaller steps, and stronger damping. The
    patience is that of belief propagation: iterations at each coupling.
    """
    if name == LEAST_ACTION:
        return _learn(loss, network, key, most, step_size=0.03)
    if name == ENTROPIC:
        calm = eqx.Partial(_fading, 0.5, 200)
        return _learn(loss, network, key, most, step_size=0.01, noise=calm)
    if name in (FOCUSING, WHOLE):
        return _focus(loss, network, patience, stop=name == FOCUSING)
    return _descend(name, loss, network, key, most)


def _learn(loss, network, key, most, **options):
    quiet = {"observe": {"errors": jf.committee.error_rate}, "every": 4}
    return jf.committee.least_action_learning(
        loss, network, most - most % 4, key=key, **quiet, **options
    )


def _fading(start, epochs, count):
    return start * jnp.maximum(0, 1 - count / epochs)


def _focus(loss, network, patience, *, stop):
    strongest, damping, replicas = 100.0, 0.5, 20.0
    if not network.tree:
        strongest, damping, replicas, patience = 10.0, 0.99, 10.0, 4 * patience
    couplings = jnp.repeat(jnp.geomspace(0.1, strongest, 60), patience)
    focusing = jf.committee.Focusing(replicas, couplings)
    options = {"damping": damping, "every": patience, "stop": stop}
    observe = {"errors": jf.committee.error_rate}
    return jf.committee.focusing_bp(loss, network, focusing, observe=observe, **options)


def _descend(name, loss, network, key, most):
    # A tenth of the patterns; but fast schedules need more than ten to learn.
    batch = min(max(loss.samples // 10, 20), loss.samples)
    per, n = loss.samples // batch, network.weights.shape[1]
    order, extra = jr.split(key)
    start, growth, step = (1.0, 0.05, 1.0) if name == FAST else (0.5, 0.005, 0.3)
    if not network.tree:
        step *= 0.1 if name == FAST else 1 / 3
    schedule = eqx.Partial(_growing, start, growth, per)
    annealed = jf.losses.Scheduled(loss, gain=schedule, robustness=schedule)
    optimizer = optax.chain(optax.sgd(step * n), jf.committee.fixed_row_norms())
    if name == FREE:
        # The norm, small at first, takes the place of the schedule.
        annealed, optimizer = loss, optax.sgd(0.1 * n)
        network = jax.tree.map(lambda w: 0.1 * w, network)
    if name == REPLICAS:
        keys = jr.split(extra, 5)
        draw = lambda key: jf.init.committee(
            len(network.weights), network.inputs, tree=network.tree, key=key
        )
        network = jax.vmap(draw)(keys)
        coupling = eqx.Partial(_growing, 0.02 / step / n, 0.01, per)
        annealed = jf.losses.Scheduled(
            jf.losses.Replicated(annealed, 0.1), coupling=coupling
        )  # pyright: ignore
    if name == ENTROPY_SGD:
        options = {"inner_steps": 10, "inner_step_size": 0.1 * n, "memory": 0.75}
        scope = 1 / n
        langevin = jf.committee.entropy_sgd(
            n, scope=scope, noise=0.01, key=extra, **options
        )
        optimizer = optax.chain(langevin, jf.committee.fixed_row_norms())
    options = {
        "batch_size": batch,
        "key": order,
        "until": jf.committee.zero_training_error,
        "every": 2 * per,
    }
    options |= {"observe": {"errors": jf.committee.error_rate}, "optimizer": optimizer}
    run = jf.gradient_descent(annealed, network, (most - most % 2) * per, **options)
    if name == REPLICAS:
        middle = jf.losses.replica_mean(run.network)
        run = eqx.tree_at(lambda r: r.network, run, middle)
    return run


def _growing(start, growth, per, count):
    return start * jnp.power(1 + growth, jnp.floor(count / per))


def measured(
    name: str,
    loss: jf.committee.Classification,
    network: jf.committee.Committee,
    *,
    key: Any,
    most: int,
    radii: Any,
) -> dict[str, Any]:
    """What a run of an algorithm found, if it did, and how wide it is there."""
    run = find(name, loss, network, key=key, most=most)
    end = run.network
    return {
        "errors": loss.errors(end),
        "taken": run.num_steps,
        "solved": loss.solved(end),
        "local_energy": jf.committee.local_energy(loss, end, radius=radii),
    } | curvature(loss, end)


def curvature(
    loss: jf.committee.Classification, network: jf.committee.Committee
) -> dict[str, Any]:
    """Of the cross-entropy on the spheres, at one robustness, gain and norm for all."""
    common = _common(loss)
    network = common.prepare(network)  # Curvature falls with the square of norms.
    density = jf.observables.spectral_density(common, network, matvecs=30, probes=24)
    return {
        "sharpness": jnp.max(density.values),
        "trace": density.trace,
        "frobenius": density.frobenius,
    }


def surroundings(
    loss: jf.committee.Classification,
    network: jf.committee.Committee,
    *,
    distance: Any,
    **cooling: int,
) -> dict[str, Any]:
    """The volume of solutions around, and all eigenvalues of the Hessian of `curvature`."""
    volume = jf.committee.local_entropy(loss, network, distance=distance, **cooling)
    common = _common(loss)
    matrix = jf.hessian(common, common.prepare(network)).as_matrix()
    return {
        "errors": loss.errors(network),
        "solved": loss.solved(network),
        "entropy": volume.entropy,
        "reliable": volume.reliable,
        "eigenvalues": decompositions.eigvalsh(matrix),
    }


def _common(loss):
    at_two = jf.committee.Classification(loss.x, loss.y, robustness=2.0, gain=2.0)
    return jf.losses.Normalized(at_two)  # pyright: ignore
