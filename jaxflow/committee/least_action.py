"""Algorithms that look for weights without a mistake, and stop when they have them."""

from collections.abc import Callable, Mapping

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Scalar, ScalarLike

from .. import _checks
from .._adapters import partition_module
from .._compilation import program
from .._linalg.norms import tree_isfinite
from .._linalg.precision import full_precision
from ..dynamics import Observable, Status, Trajectory
from ..dynamics.stepping import RecordPlan, check_every, scan_records, stack_records
from ..dynamics.trajectory import check_observe, record
from ..losses import AbstractLoss
from ..networks.committee import Committee
from .problems import Classification


@full_precision
def least_action_learning(
    loss: AbstractLoss,
    network: PyTree[Array],
    epochs: int,
    *,
    step_size: ScalarLike,
    noise: ScalarLike | Callable[[Array], Scalar] = 0.0,
    every: int = 1,
    observe: Mapping[str, Observable] | None = None,
    key: PRNGKeyArray,
    progress_meter: dfx.AbstractProgressMeter = dfx.NoProgressMeter(),
) -> Trajectory:
    r"""Correct one wrong pattern after the other, by the units that need the least.

    Patterns come in random order. Where the vote is wrong, as many units as it takes are
    pushed toward the right answer by $\eta$ times the pattern, those whose fields are
    closest to changing sign. Weights grow as they learn, which anneals $\eta$.

    With `noise` $\epsilon$ votes are those of weights disturbed by normal noise of
    $\epsilon$ times their root mean square, drawn anew for each pattern, so that patterns
    are learned with a margin in weight space: the entropic variant, which ends in flatter
    minima. The idea is that of Baldassi, Pittorino & Zecchina (2020), this form of it was
    derived for this library. Whether a run is solved is judged without noise.

    It can be batched with `equinox.filter_vmap` over all arrays.

    Args:
        loss: The patterns.
        network: Where to start: a committee of signs that votes by its sum or product.
        epochs: Passes through the patterns after which to give up.
        step_size: $\eta$, in units of the patterns.
        noise: $\epsilon$; or an Optax schedule, a function of the epochs passed.
        every: Epochs between two records, and between two looks whether it is solved.
        observe: What to report at each record, by name. Defaults to the loss alone.
        key: Randomness of the order and the noise.
        progress_meter: Any Diffrax progress meter.

    Returns:
        The trajectory, in epochs. `CONVERGED` means that no pattern is wrong.

    Raises:
        ValueError: If the network is no such committee, it does not fit the patterns, or an
            argument is out of range.
    """
    loss, network = check_search("least_action_learning", loss, network)
    if network.unit is not jnp.sign or network.vote == "difference":
        raise ValueError(
            "`least_action_learning(network=...)` must be a committee of signs that votes "
            f"by its sum or product, but has the unit {network.unit} and votes by its "
            f"{network.vote}."
        )
    dtype = network.weights.dtype
    name = "least_action_learning({}=...)".format
    step_size = _checks.real(name("step_size"), step_size, _checks.POSITIVE, dtype=dtype)
    if not callable(noise):
        noise = _checks.real(name("noise"), noise, _checks.NOT_NEGATIVE, dtype=dtype)
    epochs, key = _checks.whole(name("epochs"), epochs), _checks.key(name("key"), key)
    epoch = _Epoch(loss, step_size, noise, key)
    return search(
        "least_action_learning", epoch, network, epochs, every, observe, progress_meter
    )


def check_search(
    name: str, loss: AbstractLoss, network: PyTree[Array]
) -> tuple[Classification, Committee]:
    """Both, if the network can look for a solution.

    Raises:
        ValueError: If the loss is no classification, the network no committee, they do not
            fit, or have not one precision.
    """
    if not isinstance(loss, Classification) or not isinstance(network, Committee):
        raise ValueError(
            f"`{name}` needs a `Classification` and a `Committee`, but is given a "
            f"`{type(loss).__name__}` and a `{type(network).__name__}`."
        )
    partition_module(name, loss, network)
    jax.eval_shape(loss, network)
    return loss, network


def search(
    name: str,
    step,
    network: Committee,
    steps: int,
    every: int,
    observe: Mapping[str, Observable] | None,
    meter: dfx.AbstractProgressMeter,
    *,
    stop: bool = True,
) -> Trajectory:
    """Steps from a network; to `stop`, until it solves the problem."""
    observe = check_observe(name, observe, None, meter)
    until = _solved if stop else None
    plan = RecordPlan(steps, check_every(every, steps, name), until, meter)
    return _search(step, network, plan, observe)


@program
def _search(step, network, plan, observe):
    networks, times, _, lived, last = scan_records(plan, step, network)
    networks = jax.tree.map(stack_records, network, networks, last.network)
    solved = step.loss.solved(last.network)
    status = jnp.where(solved, Status.CONVERGED, Status.UNCONVERGED)
    status = jnp.where(tree_isfinite(last.network), status, Status.DIVERGED)
    return Trajectory(
        time=stack_records(jnp.zeros_like(last.time), times, last.time),
        observed=record(observe, step.loss, networks),
        network=last.network,
        num_steps=plan.last(lived),
        status=status.astype(jnp.int32),
        predicted_decrease=step.loss.excess(last.network),
        record_steps=plan.counts(lived),
    )


def _solved(loss, network):
    return loss.solved(network)


class _State(eqx.Module):
    network: Committee
    time: Scalar


class _Epoch(eqx.Module):
    """One pass through the patterns."""

    loss: Classification
    step_size: Float[Array, ""]
    noise: Float[Array, ""] | Callable[[Array], Scalar]
    key: PRNGKeyArray

    def init(self, network: Committee) -> _State:
        return _State(network, jnp.zeros((), network.weights.dtype))

    def __call__(self, state: _State, count: Array) -> _State:
        loss, network = self.loss, state.network
        order_key, noise_key = jr.split(jr.fold_in(self.key, count))
        order = jr.permutation(order_key, loss.samples)
        noise = self.noise(count) if callable(self.noise) else self.noise
        shape = (loss.samples, network.weights.shape[0])
        drawn = noise * jr.normal(noise_key, shape, network.weights.dtype)

        def present(weights, given):
            place, drawn = given
            return _correct(network, weights, loss.x[place], loss.y[place], drawn, self), ()

        weights, _ = jax.lax.scan(present, network.weights, (order, drawn))
        network = eqx.tree_at(lambda n: n.weights, network, weights)
        return _State(network, state.time + 1)


def _correct(network, weights, x, y, drawn, rule):
    hidden, n = weights.shape
    x = x.reshape(hidden, n) if network.tree else x[None]
    # Noise in the weights is noise in the fields: independent between units.
    sizes = jnp.sqrt(jnp.mean(weights**2, axis=1) * jnp.sum(x**2, axis=1) / n)
    fields = jnp.sum(weights * x, axis=1) / n**0.5 + drawn * sizes
    if network.vote == "product":
        wrong = y * jnp.prod(jnp.sign(fields)) <= 0
        chosen = jnp.arange(hidden) == jnp.argmin(jnp.abs(fields))
        push = -jnp.sign(fields)
    else:
        against = y * fields <= 0
        need = jnp.sum(against) - hidden // 2
        wrong = need > 0
        cost = jnp.where(against, jnp.abs(fields), jnp.inf)
        chosen = against & (jnp.argsort(jnp.argsort(cost)) < need)
        push = jnp.full(hidden, y)
    moves = jnp.where(wrong & chosen, rule.step_size * push, 0)
    return weights + moves[:, None] * x
