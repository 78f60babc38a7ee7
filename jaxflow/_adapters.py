r"""Networks and losses of the user's own: any Equinox module, any function of it.

A module may hold more than weights: activation functions, names, flags. Inside this library
a network is its weights alone, so such a module is split on the way in, its other leaves
join the loss, and what comes out is whole again.
"""

import functools as ft
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree, Scalar

from . import _checks
from ._linalg.precision import full_precision
from .losses import AbstractLoss, FunctionLoss
from .losses.functions import join_leaves, split_leaves
from .losses.transforms import Prepared

Loss = AbstractLoss | Callable[[Any], Scalar]
P = ParamSpec("P")
T = TypeVar("T")


class Completed(Prepared):
    """A loss of modules, as a function of their weights."""

    loss: AbstractLoss
    rest: tuple[tuple[Any, ...], Any] = eqx.field(static=True)

    def prepare(self, network: PyTree) -> PyTree:
        return join_leaves(network, self.rest)


def partition_module(
    name: str, loss: Any, network: Any
) -> tuple[AbstractLoss, PyTree[Array]]:
    """A loss, and the weights that it is a function of.

    Raises:
        TypeError: If the loss is no function; if weights or data are complex, of half
            precision or whole numbers.
        ValueError: If there are no weights, or they are not of the precision of the loss;
            if the loss is not a scalar function of the network.
    """
    leaves = _checks.weights(name, network)
    kinds = {leaf.dtype for leaf in leaves}
    data = {d.dtype for d in jax.tree.leaves(loss) if eqx.is_inexact_array(d)}
    if len(data | kinds) > 1:
        for dtype in sorted(data - kinds, key=str):
            _checks.precision(f"{name}(loss=...)", dtype)
        raise ValueError(
            f"`{name}` needs one precision throughout, but the network is in "
            f"{_names(kinds)} and the loss in {_names(data)}. Build both after "
            '`jax.config.update("jax_enable_x64", True)`, or cast one of them.'
        )
    if not isinstance(loss, AbstractLoss):
        loss = _checked(name, loss, network)
    if len(jax.tree.leaves(network)) == len(leaves):
        return loss, network
    weights, rest = split_leaves(network, eqx.is_inexact_array)
    return Completed(loss=loss, rest=rest), weights  # pyright: ignore


def _names(dtypes):
    return sorted(str(dtype) for dtype in dtypes)


def combine_module(loss: AbstractLoss, network: PyTree) -> tuple[AbstractLoss, PyTree]:
    """What the user gave: a loss and a network, with what `partition_module` took away."""
    if isinstance(loss, Completed):
        loss, network = loss.loss, loss.prepare(network)
    return loss, network


def of_modules(
    function: Callable[Concatenate[AbstractLoss, PyTree[Array], P], T],
) -> Callable[Concatenate[Loss, PyTree, P], T]:
    """A function of a loss and weights, for any loss and module."""

    @ft.wraps(function)
    @full_precision
    def call(loss: Any, network: Any, *args: P.args, **kwargs: P.kwargs) -> Any:
        name = function.__name__  # pyright: ignore
        return function(*partition_module(name, loss, network), *args, **kwargs)

    return call


def _checked(name: str, function: Any, network: Any) -> AbstractLoss:
    if not callable(function):
        raise TypeError(
            f"`{name}(loss=...)` must be a loss or a scalar function of a network, but is "
            f"{_checks.brief(function)}."
        )
    try:
        found = eqx.filter_eval_shape(function, network)
    except Exception as error:
        raise ValueError(
            f"`{name}(loss=...)` must be a function of the network alone that JAX can "
            f"trace, but fails with `{type(error).__name__}`: {error}"
        ) from error
    if isinstance(found, tuple):
        raise ValueError(
            f"`{name}(loss=...)` must return one number, but returns {len(found)} things. "
            "Return the value alone, without what belongs to it: "
            "`lambda network: function(network)[0]`."
        )
    shape, dtype = getattr(found, "shape", None), getattr(found, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jnp.complexfloating):
        _checks.precision(f"{name}(loss=...)", dtype)
    if shape is None or dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        given = type(found).__name__ if shape is None else f"an array of {dtype}"
        raise ValueError(
            f"`{name}(loss=...)` must return one number of floating point for a network, "
            f"but returns {given}."
        )
    if shape:
        raise ValueError(
            f"`{name}(loss=...)` must return one number for a network, but returns an "
            f"array of shape {shape}. Take a mean or a sum."
        )
    own = {leaf.dtype for leaf in jax.tree.leaves(eqx.filter(network, eqx.is_array))}
    if own != {dtype}:  # By data that it closes over, in no leaf.
        raise ValueError(
            f"`{name}` needs one precision throughout, but the network is in {_names(own)} "
            f"and the loss returns {dtype}. Cast the network, or the data that the "
            "function closes over."
        )
    return FunctionLoss(function)  # pyright: ignore
