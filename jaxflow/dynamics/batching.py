"""What `jax.vmap` of a run means: only what a batch does as a whole."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, PyTree

from .._linalg.precision import full_precision
from ..kernels import one_by_one


@custom_vmap
def anywhere(condition: Bool[Array, ""]) -> Bool[Array, ""]:
    """Whether it holds anywhere in the batch, so that a batch can skip work as a whole."""
    return condition


@anywhere.def_vmap
def _(size, batched, condition):
    del size, batched
    return anywhere(jnp.any(condition)), False


def in_turn(function: Callable[..., PyTree], arguments: PyTree, *, forward: bool) -> PyTree:
    """`function(*arguments)`; of a batch, one member after the other.

    For loops of very different lengths whose steps are long enough to fill the machine: in
    lockstep every member would wait for the slowest. Derivatives are those of the
    function, whose batches are then ordinary ones.

    Args:
        function: What to call.
        arguments: Its arguments; what it closes over is found.
        forward: Whether derivatives are forward rather than reverse.
    """
    arrays, others = eqx.partition(arguments, eqx.is_array)
    whole = lambda arrays: function(*eqx.combine(arrays, others))
    closed = eqx.filter_closure_convert(whole, arrays)
    constants, code = eqx.partition(closed, eqx.is_array)
    plain = lambda inputs: eqx.combine(inputs[1], code)(inputs[0])
    # Without `None`s: JAX (0.10) would take those for arguments under `vmap` of `jvp`.
    leaves, tree = jax.tree.flatten((arrays, constants))
    turns = one_by_one(lambda *leaves: plain(jax.tree.unflatten(tree, leaves)))
    alone = lambda inputs: turns(*jax.tree.leaves(inputs))
    if forward:
        return turns(*leaves)
    # Carried round a loop, results have their batch first, as those of `alone` have: else
    # JAX (0.10, under `jit`) takes the slopes of one order for those of the other.
    keep = lambda out, _: (jax.lax.optimization_barrier(out), None)
    first = lambda out: jax.lax.scan(keep, out, length=1)[0]
    reverse = jax.custom_vjp(lambda inputs: alone(inputs))
    reverse.defvjp(
        full_precision(lambda inputs: jax.vjp(lambda inputs: first(plain(inputs)), inputs)),
        full_precision(lambda pull, slope: pull(slope)),
    )
    return reverse((arrays, constants))
