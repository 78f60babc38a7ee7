"""How batches reach fast code: kernels that XLA keeps apart, and rules for `vmap`."""

import contextlib
import functools as ft
from collections.abc import Callable, Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.experimental.xla_metadata import set_xla_metadata
from jaxtyping import Array, Bool, PyTree

from ._linalg.backend import on_cpu
from ._linalg.precision import full_precision


def no_inline(function: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel of its own: XLA on CPU would recompute every layer in all later ones.

    On other devices that fusion saves launches, and is welcome.
    """
    function = jax.jit(function)

    def call(*arguments):
        alone = set_xla_metadata(inlineable="false")
        with alone if on_cpu() else contextlib.nullcontext():
            return function(*arguments)

    return call


def sum_of(terms: Iterable[Array]) -> Array:
    """A sum over a short axis, written out so that the last axis stays a vector's."""
    return ft.reduce(jnp.add, terms)


def custom_batch(alone: Callable[..., PyTree], together: Callable[..., PyTree]):
    """`alone`, whose batches, however nested, go to `together` as one flat batch.

    Args:
        alone: A function of trees of arrays.
        together: The same for many at once: gets their number, the arguments with `None`
            where a leaf is the same for all, and the arguments with `None` where it is
            not. Leaves of the former, and of what it returns, have the batch first.
    """

    def flat(size, moving, fixed):
        @custom_vmap
        def call(moving, fixed):
            return together(size, moving, fixed)

        @call.def_vmap
        def _(count, is_batched, moving, fixed):
            # What differs along one of the two batches only is repeated along the other.
            lay = lambda x, b: x if b else jnp.broadcast_to(x, (count, *x.shape))
            merge = lambda x: x.reshape(-1, *x.shape[2:])
            inner = jax.tree.map(lay, moving, is_batched[0])
            outer = jax.tree.map(lambda x, b: x if b else None, fixed, is_batched[1])
            fixed = jax.tree.map(lambda x, b: None if b else x, fixed, is_batched[1])
            spread = lambda x: jnp.repeat(x[:, None], size, axis=1)
            inner = _either(inner, jax.tree.map(spread, outer))
            out = flat(count * size, jax.tree.map(merge, inner), fixed)
            out = jax.tree.map(lambda x: x.reshape(count, size, *x.shape[1:]), out)
            return out, jax.tree.map(lambda _: True, out)

        return call(moving, fixed)

    alone, together = full_precision(alone), full_precision(together)
    one = custom_vmap(alone)

    @one.def_vmap
    def _(size, is_batched, *arguments):
        if not any(jax.tree.leaves(is_batched)):  # But slopes are (JAX 0.10).
            out = alone(*arguments)
            return out, jax.tree.map(lambda _: False, out)
        moving = jax.tree.map(lambda x, b: x if b else None, arguments, tuple(is_batched))
        fixed = jax.tree.map(lambda x, b: None if b else x, arguments, tuple(is_batched))
        out = flat(size, moving, fixed)
        return out, jax.tree.map(lambda _: True, out)

    return one


def one_after_another(alone: Callable[..., PyTree]):
    """`alone`, whose batches, however nested, are done one member after the other."""

    def follow(size, moving, fixed):
        del size
        return jax.lax.map(lambda one: alone(*_either(one, fixed)), moving)

    return custom_batch(alone, follow)


def _either(first: PyTree, second: PyTree) -> PyTree:
    """Each leaf from the tree that has it."""
    pick = lambda a, b: b if a is None else a
    return jax.tree.map(pick, first, second, is_leaf=lambda x: x is None)


@custom_vmap
def any_in_batch(condition: Bool[Array, ""]) -> Bool[Array, ""]:
    """Whether it holds anywhere in the batch, so that a batch can skip work as a whole."""
    return condition


@any_in_batch.def_vmap
def _(size, batched, condition):
    del size, batched
    return any_in_batch(jnp.any(condition)), False


def sequential_vmap(
    function: Callable[..., PyTree], arguments: PyTree, *, forward: bool
) -> PyTree:
    """`function(*arguments)`; of a batch, one member after the other.

    For loops of very different lengths whose steps are long enough to fill the machine: in
    lockstep every member would wait for the slowest. Derivatives are those of the
    function, whose batches are then ordinary ones.

    Args:
        function: What to call.
        arguments: Its arguments; what it closes over is found.
        forward: Whether derivatives are forward rather than reverse.
    """
    plain, inputs = _closed(function, arguments)
    # Without `None`s: JAX (0.10) would take those for arguments under `vmap` of `jvp`.
    leaves, tree = jax.tree.flatten(inputs)
    turns = one_after_another(lambda *leaves: plain(jax.tree.unflatten(tree, leaves)))
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
    return reverse(inputs)


def where_needed(
    needed: Bool[Array, ""], function: Callable[..., PyTree], *arguments: PyTree
) -> PyTree[Array]:
    """`function(*arguments)` where it is needed, else zeros; of a batch, those alone.

    It has no slopes.

    Args:
        needed: Whether it is.
        function: What to call; returns arrays.
        arguments: Its arguments; what it closes over is found.
    """
    plain, inputs = _closed(function, arguments)
    leaves, tree = jax.tree.flatten(jax.lax.stop_gradient(inputs))
    call = lambda *leaves: plain(jax.tree.unflatten(tree, leaves))
    zeros = jax.tree.map(
        lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(call, *leaves)
    )

    def single(needed, *leaves):
        return jax.lax.cond(needed, call, lambda *_: zeros, *leaves)

    def batch(size, moving, fixed):
        (needed, *moving), (same, *fixed) = moving, fixed
        needed = jnp.broadcast_to(same, (size,)) if needed is None else needed
        width = min(16, size) if on_cpu() else size
        order = jnp.pad(jnp.argsort(~needed), (0, -size % width), mode="edge")

        def some(block, found):
            places = jax.lax.dynamic_slice(order, (block * width,), (width,))
            take = lambda place: jax.tree.map(lambda x: x[place], moving)
            new = jax.vmap(lambda place: call(*_either(take(place), fixed)))(places)
            return jax.tree.map(lambda x, new: x.at[places].set(new), found, new)

        blank = jax.tree.map(lambda a: jnp.zeros((size, *a.shape), a.dtype), zeros)
        found = jax.lax.fori_loop(0, -(-jnp.sum(needed) // width), some, blank)
        # The last block is filled up with others.
        keep = lambda x: jnp.where(needed.reshape(-1, *[1] * (x.ndim - 1)), x, 0)
        return jax.tree.map(keep, found)

    return custom_batch(single, batch)(needed, *leaves)


def _closed(function, arguments) -> tuple[Callable[[PyTree], PyTree], PyTree]:
    """A function of arrays alone, and those, with what the given one closes over."""
    arrays, others = eqx.partition(arguments, eqx.is_array)
    whole = lambda arrays: function(*eqx.combine(arrays, others))
    closed = eqx.filter_closure_convert(whole, arrays)
    constants, code = eqx.partition(closed, eqx.is_array)
    return lambda inputs: eqx.combine(inputs[1], code)(inputs[0]), (arrays, constants)
