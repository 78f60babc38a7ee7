"""What public functions accept: whole numbers, real ones, names, and functions.

All say the same of what they refuse, by the name of the argument as the user knows it,
such as `"sharpness(rtol=...)"`: wrong kinds are a `TypeError`, wrong numbers a
`ValueError`. Of what is traced only the shape and the precision are known.
"""

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, PRNGKeyArray


class Must(NamedTuple):
    """What numbers must do, in words and as a condition."""

    what: str
    holds: Callable[[Any], Any]


# Where a result for it is `nan`, that may stand for what is not known.
REAL = Must("be real", lambda x: True)
FINITE = Must("be finite", np.isfinite)
POSITIVE = Must("be positive", lambda x: (x > 0) & np.isfinite(x))
SHARE = Must("be at least 0 and below 1", lambda x: (x >= 0) & (x < 1))
NOT_NEGATIVE = Must("not be negative", lambda x: (x >= 0) & np.isfinite(x))


# What arrays can count.
MOST = 2**31 - 1


def whole(name: str, value: Any, least: int = 1, most: int = MOST) -> int:
    """A whole number in a range, known while tracing.

    Raises:
        TypeError: If it is another kind of number, or of thing.
        ValueError: If it is out of range.
    """
    if isinstance(value, Tracer):
        raise TypeError(
            f"`{name}` must be known while tracing, but is traced. Make it a static "
            "argument, or close over it."
        )
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(
            f"`{name}` must be a whole number, but is {brief(value)}."
        ) from None
    if not least <= number <= most:
        wanted = {0: "not be negative", 1: "be positive"}.get(least, f"be at least {least}")
        if most != MOST or number > most:
            wanted = f"be between {least} and {most}"
        raise ValueError(f"`{name}` must {wanted}, but is {number}.")
    return number


def number(name: str, value: Any, must: Must = FINITE) -> float:
    """A real number that meets a condition, known while tracing.

    Raises:
        TypeError: If it is no real number, or traced.
        ValueError: If it does not meet the condition.
    """
    if isinstance(value, Tracer):
        raise TypeError(f"`{name}` must be known while tracing, but is traced.")
    real(name, value, must)
    return float(value)


def widths(name: str, values: Any, layers: int = 0) -> tuple[int, ...]:
    """Whole positive numbers, at least as many as `layers`."""
    if isinstance(values, str | Mapping) or not isinstance(values, Iterable):
        raise TypeError(
            f"`{name}` must be a sequence of whole numbers, not {brief(values)}."
        )
    found = tuple(whole(f"{name}[{k}]", value) for k, value in enumerate(values))
    if len(found) < layers:
        raise ValueError(f"`{name}` must hold at least {layers} numbers, but is {found}.")
    return found


def real(
    name: str,
    values: Any,
    must: Must = FINITE,
    *,
    dtype: Any = None,
    ndim: int | None = 0,
) -> Array:
    """Real numbers that meet a condition, in float32 or float64.

    What is whole becomes the default precision, unless `dtype` is another.

    Raises:
        TypeError: If they are no numbers, complex, or of half precision.
        ValueError: If they do not meet the condition, or have another number of axes.
    """
    array, given = _read(name, values, half=dtype is not None)
    if ndim is not None and array.ndim != ndim:
        raise ValueError(
            f"`{name}` must be {_shape(ndim)}, but has shape {array.shape}."
            + (" For several, use `jax.vmap`." if ndim == 0 else "")
        )
    if given is not None and must is not REAL:
        known = np.asarray(given)  # While tracing, JAX would trace the comparison.
        good = np.broadcast_to(must.holds(known), known.shape)
        if not good.all():
            bad = known[~good][0]
            what = "be finite" if np.isinf(bad) else must.what
            where = "" if known.ndim == 0 else " somewhere"
            raise ValueError(f"`{name}` must {what}, but is {bad}{where}.")
    return array if dtype is None else array.astype(dtype)


def numbers(name: str, values: Any) -> Array:
    """Any real numbers as an array of floating point, whatever they are.

    Raises:
        TypeError: If they are no numbers, complex, or of half precision.
    """
    return _read(name, values)[0]


def _read(name, values, *, half=False) -> tuple[Array, Any]:
    """As an array, and as what was given, if that is known while tracing."""
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError(
            f"`{name}` must hold all its numbers, but is a masked array. Drop those that "
            "are masked, or fill them, `values.filled(...)`."
        )
    traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(values))
    try:
        if isinstance(values, Array):
            given: Any = values
        else:
            given = jnp.asarray(values) if traced else np.asarray(values)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"`{name}` must be real numbers, but is {brief(values)}.") from None
    dtype = given.dtype
    if not (jnp.issubdtype(dtype, jnp.number) or jnp.issubdtype(dtype, np.bool_)):
        raise TypeError(f"`{name}` must be real numbers, but is {brief(values)}.")
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise TypeError(
            f"`{name}` must be real numbers, but is complex ({dtype}). Split it into its "
            "real and imaginary parts."
        )
    floating = jnp.issubdtype(dtype, jnp.floating)
    if floating and dtype.itemsize < 4 and not half:
        raise TypeError(
            f"`{name}` must be in float32 or float64, but is in {dtype.name}, which is too "
            "coarse. Cast it: `x.astype(jnp.float32)`."
        )
    array = jnp.asarray(given)
    array = array if floating else array.astype(jnp.result_type(float))
    return array, None if traced else given


def weights(name: str, network: Any) -> list[Array]:
    """The arrays of a network, all of floating point and of a precision that is known.

    Args:
        name: That of the function which is given the `network`.
        network: Any tree.

    Raises:
        TypeError: If they are complex, of half precision or whole numbers.
        ValueError: If there are none.
    """
    every = jax.tree.leaves(network)
    leaves = [leaf for leaf in every if isinstance(leaf, Array)]
    if any(isinstance(leaf, np.ndarray) for leaf in every):
        raise TypeError(
            f"`{name}(network=...)` must be made of JAX's arrays, but holds NumPy's. Pass "
            "`jax.tree.map(jnp.asarray, network)`."
        )
    if not leaves:
        way = (
            f" The loss comes first: `{name}(loss, network)`." if callable(network) else ""
        )
        raise ValueError(
            f"`{name}(network=...)` must be made of floating-point arrays, but holds no "
            f"arrays: it is {brief(network)}.{way}"
        )
    for dtype in sorted({leaf.dtype for leaf in leaves}, key=str):
        precision(f"{name}(network=...)", dtype)
    return leaves


def precision(name: str, dtype: Any) -> None:
    """Whether it is that of float32 or float64."""
    if dtype in (jnp.float32, jnp.float64):
        return
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise TypeError(
            f"`{name}` must be real, but holds numbers of {dtype.name}. Split them into "
            "their real and imaginary parts, and let the loss put them together."
        )
    if jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"`{name}` must be in float32 or float64, but holds {dtype.name}, whose "
            "rounding would hide what is measured. Cast it to float32: "
            "`jax.tree.map(lambda w: w.astype(jnp.float32), network)`."
        )
    raise TypeError(
        f"`{name}` must be made of floating-point arrays, but holds {dtype}. Cast weights; "
        "make whole numbers static fields, `equinox.field(static=True)`, or close over "
        "them."
    )


def seed(name: str, value: Any) -> PRNGKeyArray:
    """The key of a whole number, traced or not."""
    array = isinstance(value, Array) and value.ndim == 0
    if array and jnp.issubdtype(value.dtype, jnp.integer):
        return jr.key(value)
    number = whole(name, value, least=-(2**63), most=2**64 - 1)
    return jr.key(number)


def key(name: str, value: Any) -> PRNGKeyArray:
    """One key of `jax.random`, new or old style."""
    if not isinstance(value, Array):
        raise TypeError(
            f"`{name}` must be a key, such as `jax.random.key(0)`, but is {brief(value)}."
        )
    new = jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
    old = value.dtype == jnp.uint32 and value.ndim >= 1
    if not (new or old):
        raise TypeError(
            f"`{name}` must be a key, such as `jax.random.key(0)`, but is an array of "
            f"{value.dtype}."
        )
    if value.ndim != (0 if new else 1):
        raise ValueError(
            f"`{name}` must be one key, but has shape {value.shape}. For several, use "
            "`jax.vmap`."
        )
    return value


def choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Whether it is one of a few names."""
    choices = tuple(choices)
    if not any(value is choice or value == choice for choice in choices):
        given = repr(value) if isinstance(value, str) else brief(value)
        raise ValueError(f"`{name}` must be one of {choices}, but is {given}.")


def function(name: str, value: Any, of: str) -> None:
    """Whether it can be called."""
    if not callable(value):
        raise TypeError(f"`{name}` must be a function of {of}, but is {brief(value)}.")


def kind(name: str, value: Any, wanted: type | tuple[type, ...], way: str = "") -> None:
    """Whether it is of one of these types."""
    if not isinstance(value, wanted):
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        names = " or ".join(f"a `{t.__name__}`" for t in wanted)
        raise TypeError(
            f"`{name}` must be {names}, but is {brief(value)}." + (way and f" {way}")
        )


def brief(value: Any) -> str:
    """What it is, in a few words."""
    text = repr(value) if isinstance(value, str | int | float | complex | None) else ""
    if value is None or (text and len(text) < 40):
        return str(text)
    if isinstance(value, np.ndarray | Array):
        return f"an array of shape {value.shape} and type {value.dtype}"
    article = "an" if type(value).__name__[0].lower() in "aeiou" else "a"
    return f"{article} `{type(value).__name__}`"


def _shape(ndim):
    return {0: "one number", 1: "a vector", 2: "a matrix"}.get(ndim, f"{ndim} axes deep")
