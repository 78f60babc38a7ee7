"""What can be read off a traced function: its identity, and how much memory it takes."""

import enum
import hashlib
import itertools as it
from collections.abc import Mapping
from typing import Any

import jax
import jax.random as jr
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal


def fingerprint(closed: ClosedJaxpr) -> str:
    """A hash of what is computed: the operations, how they are connected, and the data.

    The same in every process for the same function and versions of its libraries. Names of
    functions do not count, nor does what runs outside JAX, such as callbacks.
    """
    return _code(closed.jaxpr, closed.consts, {})[:16]


def _code(jaxpr: Jaxpr, consts, seen: dict[int, str]) -> str:
    numbers = {}
    number = lambda v: numbers.setdefault(v, len(numbers))
    define = lambda variables: [f"{number(v)}:{_type(v.aval)}" for v in variables]
    read = lambda v: (
        _word(v.val, seen) + _type(v.aval) if isinstance(v, Literal) else number(v)
    )
    digest = hashlib.sha256()
    put = lambda *words: digest.update(repr(words).encode())
    put(define(jaxpr.constvars), define(jaxpr.invars), [_word(c, seen) for c in consts])
    for eqn in jaxpr.eqns:
        # The names in the parameters are those of functions.
        parameters = [
            (name, _word(value, seen))
            for name, value in sorted(eqn.params.items())
            if name != "name"
        ]
        inputs = [read(v) for v in eqn.invars]
        put(eqn.primitive.name, inputs, parameters, define(eqn.outvars))
    put([read(v) for v in jaxpr.outvars])
    return digest.hexdigest()


def _type(aval) -> str:
    parts = (getattr(aval, name, "") for name in ("dtype", "shape", "weak_type"))
    return " ".join(map(str, parts))


def _word(value: Any, seen: dict[int, str]) -> str:
    """A value, if it is data or code; what is neither might differ between processes."""
    match value:
        case ClosedJaxpr() | Jaxpr():
            if id(value) not in seen:
                jaxpr = value.jaxpr if isinstance(value, ClosedJaxpr) else value
                consts = value.consts if isinstance(value, ClosedJaxpr) else ()
                seen[id(value)] = _code(jaxpr, consts, seen)
            return seen[id(value)]
        case enum.Enum():
            return value.name
        case None | bool() | int() | float() | complex() | str() | np.dtype():
            return str(value)
        case tuple() | list():
            return "(" + ", ".join(_word(part, seen) for part in value) + ")"
        case Mapping():
            parts = sorted((str(name), _word(part, seen)) for name, part in value.items())
            return repr(parts)
        case _ if hasattr(value, "dtype") and hasattr(value, "shape"):
            return _array(value) if hasattr(value, "__array__") else _type(value)
    return ""


def _array(value) -> str:
    if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jr.key_data(value)
    array = np.ascontiguousarray(value)
    return f"{array.dtype}{array.shape}{hashlib.sha256(array.tobytes()).hexdigest()}"


def peak_bytes(closed: ClosedJaxpr) -> int:
    """An estimate of the memory that one call takes, beside its constants.

    Every value lives from where it is computed to where it is used last, loop bodies
    included. Compilers do better where they fuse operations, and worse where they copy.
    """
    return _peak(closed.jaxpr)


def _peak(jaxpr: Jaxpr) -> int:
    last = {v: len(jaxpr.eqns) for v in jaxpr.outvars if not isinstance(v, Literal)}
    for k, eqn in enumerate(jaxpr.eqns):
        for v in eqn.invars:
            if not isinstance(v, Literal):
                last[v] = max(k, last.get(v, 0))
    alive = set(jaxpr.invars)
    live = most = _bytes(jaxpr.invars)
    for k, eqn in enumerate(jaxpr.eqns):
        live += _bytes(eqn.outvars)
        alive.update(eqn.outvars)
        most = max(most, live + _inside(eqn))
        used = {v for v in eqn.invars if not isinstance(v, Literal)} | {*eqn.outvars}
        ended = {v for v in used & alive if last.get(v, k) <= k}
        alive -= ended
        live -= _bytes(ended)
    return most


def _inside(eqn) -> int:
    """What an operation takes beside its inputs and outputs."""
    most = 0
    for value in it.chain.from_iterable(map(_parts, eqn.params.values())):
        jaxpr = value.jaxpr if isinstance(value, ClosedJaxpr) else value
        if isinstance(jaxpr, Jaxpr):
            shared = _bytes(jaxpr.invars) if eqn.primitive.name != "scan" else 0
            most = max(most, _peak(jaxpr) - shared)
    return most


def _parts(value):
    return value if isinstance(value, tuple | list) else (value,)


def _bytes(variables) -> int:
    avals = (v.aval for v in variables if not isinstance(v, Literal))
    sized = (a for a in avals if hasattr(a, "dtype") and hasattr(a, "shape"))
    return sum(int(np.prod(a.shape)) * a.dtype.itemsize for a in sized)
