"""Where optimizers become unstable: closed forms, and the metric they measure in."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, ScalarLike

from .. import _checks


def stability_threshold(
    step_size: ScalarLike,
    *,
    momentum: ScalarLike = 0.0,
    nesterov: bool = False,
    average: bool = False,
) -> Float[Array, ""]:
    r"""The sharpness above which an optimizer diverges on a quadratic.

    $2 (1 + \beta) / \eta$ with momentum $\beta$, divided by $1 + 2 \beta$ if it is
    Nesterov's (Cohen et al., 2021), and by $1 - \beta$ if the gradients are averaged as in
    Adam (Cohen et al., 2022). For an optimizer with a preconditioner, which is frozen here,
    compare with `sharpness(..., preconditioner=preconditioner(state))`.

    In the terms of Optax:

    - `sgd(eta, momentum, nesterov)`, `rmsprop(eta, momentum=, nesterov=)` and
      `adagrad(eta)` have the same arguments;
    - `adam(eta, b1)`, and `adamw` without decay, have `momentum=b1, average=True`;
    - `nadam(eta, b1)` has `nesterov=True` as well.

    Args:
        step_size: The learning rate $\eta$.
        momentum: The decay $\beta$ of the trace of gradients.
        nesterov: Whether the gradient counts once more ahead of the trace.
        average: Whether gradients enter the trace times $1 - \beta$.

    Raises:
        ValueError: If the step size is not positive, or the momentum not in $[0, 1)$.
    """
    step_size = _checks.real(
        "stability_threshold(step_size=...)", step_size, _checks.POSITIVE, dtype=float
    )
    momentum = _checks.real(
        "stability_threshold(momentum=...)", momentum, _checks.SHARE, dtype=float
    )
    ahead = 1 + 2 * momentum if nesterov else 1.0
    share = 1 - momentum if average else 1.0
    return 2 * (1 + momentum) / (step_size * ahead * share)


def preconditioner(
    state: PyTree,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float | None = None,
    eps_root: float = 0.0,
    eps_in_sqrt: bool = True,
) -> PyTree[Array]:
    r"""What an Optax optimizer with this state divides gradients by, as a network.

    For the `preconditioner` of `spectrum` and `sharpness`. Adam:
    $(1 - \beta_1^t) (\sqrt{\nu / (1 - \beta_2^t) + \epsilon_0} + \epsilon)$ (Cohen et al.,
    2022), which belongs to thresholds with `average=True`; RMSProp:
    $\sqrt{\nu + \epsilon}$; Adagrad: the same, of the sum of squares. It is that of the
    last update, so there must have been one. Adamax, RAdam and Yogi keep their numbers in
    Adam's state without saying so, and divide by something else.

    Args:
        state: The optimizer's state; the one known part is looked for inside it.
        b1: As given to `optax.adam`; the state does not hold it. For Adam only.
        b2: The same; with `optax.rmsprop(bias_correction=True)` its `decay`.
        eps: As given to the optimizer; its default in Optax if none.
        eps_root: As given to `optax.adam`.
        eps_in_sqrt: As given to `optax.rmsprop`.

    Raises:
        ValueError: If the state holds no part that is known, or several.
    """
    given = {"b1": b1, "b2": b2, "eps_root": eps_root, "eps": 0.0 if eps is None else eps}
    for name, number in given.items():
        must = _checks.SHARE if name.startswith("b") else _checks.NOT_NEGATIVE
        _checks.real(f"preconditioner({name}=...)", number, must)
    known = [part for part in _parts(state) if _name(part) in _KNOWN]
    if len(known) != 1:
        names = sorted({_name(part) for part in _parts(state)})
        raise ValueError(
            "`preconditioner(state)` must hold one state of optax's scale_by_adam, "
            f"scale_by_rms or scale_by_rss, but holds {len(known)} among {names}. Without "
            "a preconditioner pass none; for another optimizer, pass what it divides by."
        )
    (found,) = known
    size, default = _KNOWN[_name(found)]
    eps = default if eps is None else eps
    return size(found, b1, b2, eps, eps_root, eps_in_sqrt)


def _adam(state, b1, b2, eps, eps_root, eps_in_sqrt):
    del eps_in_sqrt
    first, second = (1 - b ** state.count.astype(float) for b in (b1, b2))

    def one(nu):
        unbiased = nu / second.astype(nu.dtype)
        return first.astype(nu.dtype) * (jnp.sqrt(unbiased + eps_root) + eps)

    return jax.tree.map(one, state.nu)


def _rms(state, b1, b2, eps, eps_root, eps_in_sqrt):
    del b1, eps_root
    counted = "count" in state._fields  # Every tuple has a method of that name.
    second = 1 - b2 ** state.count.astype(float) if counted else jnp.ones(())

    def one(nu):
        nu = nu / second.astype(nu.dtype)
        return jnp.sqrt(nu + eps) if eps_in_sqrt else jnp.sqrt(nu) + eps

    return jax.tree.map(one, state.nu)


def _rss(state, b1, b2, eps, eps_root, eps_in_sqrt):
    del b1, b2, eps_root, eps_in_sqrt
    return jax.tree.map(lambda total: jnp.sqrt(total + eps), state.sum_of_squares)


# With the default of `eps`. By name, because optax does not export all of them.
_KNOWN = {
    "ScaleByAdamState": (_adam, 1e-8),
    "ScaleByRmsState": (_rms, 1e-8),
    "ScaleByRmsWithCountState": (_rms, 1e-8),
    "ScaleByRssState": (_rss, 1e-7),
}


def _name(state):
    return type(state).__name__


def _parts(state):
    """All named states inside, outermost first."""
    if hasattr(state, "_fields"):
        yield state
    if _name(state) not in _KNOWN and isinstance(state, tuple | list | dict):
        for part in state.values() if isinstance(state, dict) else state:
            yield from _parts(part)
