"""Matrix products to full precision, which accelerators round by default in float32."""

import functools as ft
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax

P = ParamSpec("P")
T = TypeVar("T")


def full_precision(function: Callable[P, T]) -> Callable[P, T]:
    """`function`, traced so that no product is rounded more than its type.

    A user's own `jax_default_matmul_precision` is respected. Rules for derivatives and
    batches may be traced after the function has returned, and have to say so themselves.
    """

    @ft.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        if jax.config.jax_default_matmul_precision is not None:  # pyright: ignore
            return function(*args, **kwargs)
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return call
