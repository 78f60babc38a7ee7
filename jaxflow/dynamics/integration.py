"""What a flow adds to Diffrax's solvers and controllers, each around one of them."""

from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree, Scalar

from .._adapters import combine_module
from .._linalg.norms import tree_norm
from .trajectory import Observable


class UntilStiff(dfx.AbstractAdaptiveSolver, dfx.AbstractWrappedSolver):
    """Tsitouras' method, which ends where it spends its steps on being stable.

    The last two stages are at the same time, so that their difference shows the largest
    rate in play (Hairer & Wanner, 1996, section IV.2). The method is stable up to steps of
    3.5 over that rate. A step of the stiff method costs as much as some ten of these, so
    that a run which is about to end anyway had better end here.
    """

    solver: dfx.Tsit5 = dfx.Tsit5()
    patience: int = 100

    # A way to end that Diffrax lets a solver choose, and does not take by itself.
    ENDED = dfx.RESULTS.dt_min_reached

    @property
    def term_structure(self):
        return self.solver.term_structure

    @property
    def interpolation_cls(self):  # pyright: ignore
        return self.solver.interpolation_cls

    @property
    def scan_kind(self):
        # Adjoints of Diffrax (0.7) take what wraps a Runge-Kutta method for one.
        return self.solver.scan_kind

    def order(self, terms):
        return self.solver.order(terms)

    def error_order(self, terms):
        return self.solver.error_order(terms)

    def func(self, terms, t0, y0, args):
        return self.solver.func(terms, t0, y0, args)

    def init(self, terms, t0, t1, y0, args):
        stability_steps, step = jnp.zeros((), jnp.int32), jnp.zeros_like(t0)
        return self.solver.init(terms, t0, t1, y0, args), (stability_steps, step)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        state, (stability_steps, _) = solver_state
        now = terms, t0, t1, y0, args, state, made_jump
        y1, error, info, state, result = self.solver.step(*now)
        limited = self._limited_by_stability(y0, y1, info["k"])
        stability_steps = stability_steps + limited.astype(stability_steps.dtype)
        result = dfx.RESULTS.where(stability_steps < self.patience, result, self.ENDED)
        return y1, error, info, (state, (stability_steps, t1 - t0)), result

    def _limited_by_stability(self, y0, y1, stages) -> Bool[Array, ""]:
        """Whether a longer step would be unstable, whatever its error."""
        sixth = jnp.asarray(self.solver.tableau.a_lower[-2])
        gap = lambda y0, y1, k: y1 - y0 - jnp.tensordot(sixth.astype(k.dtype), k[:5], 1)
        rise = tree_norm(jax.tree.map(lambda k: k[6] - k[5], stages))
        return rise > 2.7 * tree_norm(jax.tree.map(gap, y0, y1, stages))

    @classmethod
    def is_stiff(cls, solution: dfx.Solution) -> Bool[Array, ""]:
        """Whether it ended for that reason."""
        return solution.result == cls.ENDED

    @classmethod
    def last_step(cls, solution: dfx.Solution) -> Scalar:
        """The size of its last step."""
        return jax.lax.stop_gradient(solution.solver_state[1][1])  # pyright: ignore


class Capped(dfx.AbstractAdaptiveStepSizeController):
    """Steps of another controller, but none longer than an observable says."""

    controller: dfx.AbstractAdaptiveStepSizeController
    longest: Observable

    @property
    def rtol(self):
        return self.controller.rtol

    @property
    def atol(self):
        return self.controller.atol

    @property
    def norm(self):  # pyright: ignore
        return self.controller.norm

    def wrap(self, direction):
        controller = self.controller.wrap(direction)
        return eqx.tree_at(lambda c: c.controller, self, controller)

    def init(self, terms, t0, t1, y0, dt0, args, func, error_order):
        end, state = self.controller.init(terms, t0, t1, y0, dt0, args, func, error_order)
        return self._at_most(t0, end, y0, args), state

    def adapt_step_size(self, t0, t1, y0, y1_candidate, args, *rest) -> Any:
        found = self.controller.adapt_step_size(t0, t1, y0, y1_candidate, args, *rest)
        kept, begin, end, *others = found
        now = jax.tree.map(lambda a, b: jnp.where(kept, b, a), y0, y1_candidate)
        return kept, begin, self._at_most(begin, end, now, args), *others

    def _at_most(self, begin: Any, end: Any, network: PyTree, args: Any) -> Scalar:
        loss, *_ = args
        return jnp.minimum(end, begin + self.longest(*combine_module(loss, network)))


def step_control(
    rtol: float, atol: Any, max_step: Observable | None, dtype: Any
) -> dfx.AbstractAdaptiveStepSizeController:
    """Steps by their error. Where the velocity is not a number, they shrink to an end."""
    least = float(jnp.finfo(dtype).tiny)
    control = dfx.PIDController(
        rtol=rtol, atol=atol, norm=error_norm, dtmin=least, force_dtmin=False
    )
    return control if max_step is None else Capped(control, max_step)  # pyright: ignore


def error_norm(error: PyTree[Array]) -> Array:
    """The root mean square; of what is not a number infinite, so that the step shrinks."""
    count = sum(e.size for e in jax.tree.leaves(error))
    size = tree_norm(error) / count**0.5
    return jnp.where(jnp.isnan(size), jnp.inf, size)
