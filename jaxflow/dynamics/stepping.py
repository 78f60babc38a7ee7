"""Loops of steps that record, in one network or many."""

import itertools as it
from collections.abc import Sequence
from typing import Any, NamedTuple

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from .. import _checks
from .._adapters import combine_module
from .._batching import any_in_batch, custom_batch, one_after_another
from .._fast import descent_lanes as lanes
from .._linalg.norms import tree_isfinite
from .._linalg.precision import full_precision
from .trajectory import Observable


def check_every(
    every: int | Sequence[int], steps: int, name: str = "gradient_descent"
) -> int | tuple[int, ...]:
    """When to record, if that is possible."""
    if isinstance(every, Sequence | np.ndarray) and not isinstance(every, str):
        every = _checks.widths(f"{name}(every=...)", every)
        if any(b <= a for a, b in it.pairwise((0, *every))) or every[-1:] != (steps,):
            raise ValueError(
                f"`{name}(every=...)` must be positive, increase, and end with "
                f"`steps`, but is {every} for {steps} steps."
            )
        return every
    every = _checks.whole(f"{name}(every=...)", every)
    if steps % every:
        raise ValueError(
            f"`{name}(every=...)` must divide `steps`, but is {every} for "
            f"{steps} steps. The next multiple is {every * (steps // every + 1)} steps."
        )
    return every


def stack_records(first: Array, rest: Array, end: Array) -> Array:
    """All records: the start, those on the way, and the end in place of the last."""
    return jnp.concatenate([first[None], rest[:-1], end[None]])


class RecordPlan(NamedTuple):
    """How far, and when to look."""

    steps: int
    every: int | tuple[int, ...]
    until: Observable | None
    meter: dfx.AbstractProgressMeter
    stateful: bool = False

    @property
    def ends(self) -> np.ndarray:
        """The numbers of steps to record after."""
        if isinstance(self.every, int):
            return np.arange(self.every, self.steps + 1, self.every)
        return np.array(self.every)

    def last(self, lived: Bool[Array, " records"]) -> Int[Array, ""]:
        """The steps taken, given which records were reached."""
        return jnp.max(jnp.where(lived, self.ends, 0))

    def counts(self, lived: Bool[Array, " records"]) -> Int[Array, " times"]:
        """The steps taken at each record; -1 where there was none."""
        counts, last = jnp.where(lived, self.ends, -1), self.last(lived)
        return stack_records(jnp.zeros_like(last), counts, last)


def scan_records(plan, step, network) -> Any:
    """At each record but the start the network, time and state, if it is a reached one.

    And the end. States of the optimizer are kept only where an observable sees them.
    """
    regular = isinstance(plan.every, int)
    ends = jnp.asarray(plan.ends)
    starts = jnp.concatenate([jnp.zeros_like(ends[:1]), ends[:-1]])

    @jax.checkpoint
    def block(state, first, end):
        """The steps from number `first` to `end`."""
        # A number of steps that is known beforehand makes a loop with derivatives.
        length = plan.every if regular else end - first
        take = lambda k, state: step(state, first + k)
        return jax.lax.fori_loop(0, length, take, state)

    def advance(carry, bounds):
        old, alive, meter_state = carry
        new = jax.lax.cond(
            any_in_batch(alive), block, lambda state, *_: state, old, *bounds
        )
        new = jax.tree.map(lambda a, b: jnp.where(alive, a, b), new, old)
        going = alive & tree_isfinite(new.network)
        if plan.until is not None:
            going &= ~plan.until(*combine_module(step.loss, new.network))
        meter_state = plan.meter.step(meter_state, bounds[1] / plan.steps)
        kept = new.optimizer if plan.stateful else None
        return (new, going, meter_state), (*_seen(new, alive), kept, alive)

    carry = (step.init(network), jnp.ones((), bool), plan.meter.init())
    carry, (*records, lived) = jax.lax.scan(advance, carry, (starts, ends))
    last, _, meter_state = carry
    plan.meter.close(meter_state)
    return *records, lived, last


def _seen(state, alive):
    """What a record keeps of a state: nothing if the run had ended before."""
    network = jax.tree.map(lambda w: jnp.where(alive, w, jnp.nan), state.network)
    return network, jnp.where(alive, state.time, jnp.inf)


def scan_in_lanes(kernel, plan, step, network):
    """The same for plain gradient descent, whose batches take other routes.

    Derivatives are those of the loop over steps.
    """
    inputs, rest = eqx.partition((step, network), eqx.is_array)

    def alone(inputs):
        return scan_records(plan, *eqx.combine(inputs, rest))

    def together(size, moving, fixed):
        [moving], [fixed] = moving, fixed
        networks, lived = lanes.descend(kernel, plan.ends, size, moving, fixed)

        def label(networks, lived, moving):
            step, _ = eqx.combine(moving, fixed, rest)
            counts = jnp.asarray(plan.ends)
            states = jax.vmap(step.at)(networks, counts)
            last = jax.tree.map(lambda w: w[-1], networks)
            last = step.at(last, jnp.max(jnp.where(lived, counts, 0)))
            return *jax.vmap(_seen)(states, lived), None, lived, last

        return jax.vmap(label)(networks, lived, moving)

    route = (
        one_after_another(alone) if kernel.step is None else custom_batch(alone, together)
    )
    differentiable = eqx.filter_custom_jvp(lambda inputs: route(inputs))
    slope = lambda inputs, slopes: eqx.filter_jvp(alone, inputs, slopes)
    differentiable.def_jvp(full_precision(slope))
    return differentiable(inputs)
