"""What fields of networks are converted and checked by."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, ScalarLike

from .. import _checks


def array_tuple(name: str):
    """Layers as a tuple of real arrays, also from lists and NumPy."""

    def convert(weights: Sequence[ArrayLike]) -> tuple[Array, ...]:
        if not isinstance(weights, tuple | list):
            raise TypeError(
                f"`{name}` must be a tuple of arrays, but is {_checks.brief(weights)}."
            )
        return tuple(as_array(f"{name}[{k}]", weight) for k, weight in enumerate(weights))

    return convert


def real_array(name: str):
    """A real array, also from lists and NumPy."""

    def convert(array: ArrayLike) -> Array:
        return as_array(name, array)

    return convert


def optional_array(name: str):
    """The same, or none."""

    def convert(array: ArrayLike | None) -> Array | None:
        return None if array is None else as_array(name, array)

    return convert


def as_array(name, array) -> Any:
    """A real array, or what stands for one."""
    abstract = isinstance(array, jax.ShapeDtypeStruct)
    return array if abstract else _checks.numbers(name, array)


def activation_function(name: str):
    """A function of one number."""

    def convert(activation: Callable[[Array], Array]):
        _checks.function(name, activation, "one number")
        return activation

    return convert


def strengths(name: str):
    """Numbers of the default precision, of which `per_layer` says whether they fit."""

    def convert(values: ArrayLike | Sequence[ScalarLike]) -> Array:
        return _checks.real(name, values, _checks.REAL, dtype=float, ndim=None)

    return convert


def per_layer(
    values: ArrayLike | Sequence[ScalarLike],
    layers: int,
    name: str,
    *,
    positive: bool = False,
) -> Float[Array, " layers"]:
    """One number for each layer, of one for all or of as many.

    Raises:
        ValueError: If there are neither one nor `layers`, one is not finite, or negative,
            or zero where they must be `positive`. Where that is known while tracing.
    """
    must = _checks.POSITIVE if positive else _checks.NOT_NEGATIVE
    array = _checks.real(name, values, must, ndim=None)
    if array.ndim and array.shape != (layers,):
        raise ValueError(
            f"`{name}` must be one number, or one for each of {layers} layers, but has "
            f"shape {array.shape}."
        )
    return jnp.broadcast_to(array, (layers,))
