r"""Losses of the user's own: any scalar function of a network."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree, Scalar

from .. import _checks
from .base import AbstractLoss


class FunctionLoss(AbstractLoss):
    r"""A loss from any scalar function of a network, such as one that training code has.

    Wherever a loss is expected the function itself will do; as a `FunctionLoss` it can be
    added to others and multiplied. Its floor is zero: where the least value is another,
    verdicts and tolerances count from zero all the same.

    Args:
        function: The function. Compared by identity, so define it once; data that it is
            bound to by `equinox.Partial` may change without compiling again.
    """

    arrays: PyTree[Array]
    rest: tuple[tuple[Any, ...], Any] = eqx.field(static=True)

    def __init__(self, function: Callable[[Any], Scalar]):
        _checks.function("FunctionLoss(function)", function, "a network")
        self.arrays, self.rest = split_leaves(function, eqx.is_array)

    @property
    def floor(self) -> Scalar:
        return jnp.zeros(())

    def excess(self, network: PyTree) -> Scalar:
        return join_leaves(self.arrays, self.rest)(network)


def split_leaves(tree, condition):
    """The leaves that meet the condition, and all others as something to compare by."""
    chosen, rest = eqx.partition(tree, condition)
    leaves, structure = jax.tree.flatten(rest, is_leaf=lambda leaf: leaf is None)
    return chosen, (tuple(leaves), structure)


def join_leaves(chosen, rest):
    """What `split_leaves` took apart."""
    leaves, structure = rest
    return eqx.combine(chosen, jax.tree.unflatten(structure, leaves))
