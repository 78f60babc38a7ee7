"""The central flow against exact toys, descents, and convex duality."""

import json
from pathlib import Path

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import jaxflow as jf
from jaxflow.dynamics import central as module
from jaxflow.dynamics.complementarity import (
    _interior_point,
    complementary,
    pairs,
    smat,
    svec,
)


def toy(rates, n):
    """Curvatures that grow until oscillations hold them: no third derivative but one."""
    m = (n["m"] + n["m"].T) / 2
    return n["x"] @ m @ n["x"] / 2 - jnp.sum(rates * m)


class TestComplementarity:
    def problems(self, k, count=64):
        def one(key):
            first, second = jr.split(key)
            rows = jr.normal(first, (k * (k + 1) // 2, 40))
            a = 10 * jr.normal(second, (k, k))
            return (a + a.T) / 2, rows @ rows.T

        return jax.vmap(one)(jr.split(jr.key(k), count))

    @pytest.mark.parametrize("k", [1, 2, 3])
    def test_conditions(self, k):
        a, b = self.problems(k)
        x, s = jax.jit(jax.vmap(complementary))(a, b)
        met = a + jax.vmap(lambda b, x: smat(b @ svec(x)))(b, x)
        np.testing.assert_allclose(s, met, atol=1e-9)
        assert np.linalg.eigvalsh(x).min() >= -1e-9
        assert np.linalg.eigvalsh(s).min() >= -1e-9
        np.testing.assert_allclose(jnp.sum(x * s, (1, 2)), 0, atol=1e-8)
        assert np.linalg.eigvalsh(x)[:, -1].max() > 0.1  # Not all are trivial.

    def test_one_direction_has_a_closed_form(self):
        """To which the interior comes close from inside."""
        a, b = self.problems(1)
        x, s = jax.jit(jax.vmap(complementary))(a, b)
        inner, slack = jax.jit(jax.vmap(_interior_point))(a, b)
        assert 10 < jnp.sum(x > 0) < 54  # Both cases.
        np.testing.assert_allclose(inner, x, atol=1e-9)
        np.testing.assert_allclose(slack, s, atol=1e-9)

    def test_turned_problems_have_turned_solutions(self):
        a, b = self.problems(3)
        turn = jnp.linalg.qr(jr.normal(jr.key(0), (3, 3)))[0]
        turned = lambda m: turn @ m @ turn.T
        both = jax.vmap(lambda e: svec(turned(smat(e))))(jnp.eye(6)).T
        solve = jax.jit(jax.vmap(complementary))
        x, s = solve(a, b)
        others = solve(jax.vmap(turned)(a), jax.vmap(lambda b: both @ b @ both.T)(b))
        for found, plain in zip(others, (x, s), strict=True):
            # Where both nearly vanish along a direction, they are known to the root of the
            # gap, which is 2e-11 relative to their size.
            atol = 5e-6 * np.max(np.abs(plain))
            np.testing.assert_allclose(found, jax.vmap(turned)(plain), atol=atol)

    def test_vectors_keep_inner_products(self):
        a, b = (m + m.T for m in jr.normal(jr.key(0), (2, 3, 3)))
        np.testing.assert_allclose(svec(a) @ svec(b), jnp.vdot(a, b))
        np.testing.assert_allclose(smat(svec(a)), a)
        assert [tuple(p) for p in np.array(pairs(2)).T] == [(0, 0), (0, 1), (1, 1)]

    def test_nothing_to_move_by(self):
        """Without slope nothing oscillates, and a lack stays as it is."""
        a = jnp.diag(jnp.array([1.0, -1.0]))
        x, s = complementary(jnp.eye(2), jnp.zeros((3, 3)))
        np.testing.assert_allclose(x, 0, atol=1e-9)
        np.testing.assert_allclose(s, np.eye(2), atol=1e-9)
        x, s = complementary(a[1:, 1:], jnp.zeros((1, 1)))
        np.testing.assert_allclose((x, s), ([[0.0]], [[-1.0]]))

    def test_derivatives(self):
        """But for a few that are nearly not differentiable, against differences."""
        a, b = self.problems(2)
        direction = jnp.array([[1.0, 0.5], [0.5, -1.0]])
        solve = jax.jit(jax.vmap(complementary))
        at = lambda h: solve(a + h * direction[None], b)[0]
        slope = jax.jvp(at, (0.0,), (1.0,))[1]
        numeric = (at(1e-4) - at(-1e-4)) / 2e-4
        assert np.max(np.abs(slope)) > 1e-2
        errors = np.max(np.abs(slope - numeric), (1, 2))
        # Solutions are known to some 1e-9, and so their differences over 1e-4 to 1e-5.
        assert np.quantile(errors, 0.9) < 1e-5


class TestExact:
    def test_one_direction(self):
        """Curvature rises at rate 0.001, stops at 2/step size, and swings hold it there."""
        start = {"x": jnp.zeros(1), "m": 19.5 * jnp.eye(1)}
        loss = jf.losses.FunctionLoss(eqx.Partial(toy, jnp.full((1, 1), 0.01)))
        curvature = lambda loss, n: n["m"][0, 0]
        run = jf.central_flow(
            loss,
            start,
            1500,
            step_size=0.1,
            every=300,
            directions=1,
            observe={"m": curvature},
        )
        np.testing.assert_allclose(run.observed["m"], [19.5, 19.8, 20, 20, 20, 20])
        modes = [0, 0, 0.02, 0.02, 0.02, 0.02]
        np.testing.assert_allclose(run.edge.modes[:, 0], modes, atol=1e-12)
        np.testing.assert_allclose(run.edge.average["loss"][2:], 0, atol=1e-12)
        np.testing.assert_allclose(run.time, 0.1 * np.arange(0, 1501, 300))
        assert run.edge.threshold == 20
        assert not run.edge.saturated
        assert run.edge.violation[-1] < 1e-12

    @pytest.mark.parametrize("coupling", [0.008, 0.04])
    def test_two_directions(self, coupling):
        """The covariance is twice the positive part of the rates.

        Directions that the rates do not push against the edge leave it for good, and those
        that they do are eigenvectors.
        """
        rates = jnp.array([[0.01, coupling / 2], [coupling / 2, 0.02]])
        loss = jf.losses.FunctionLoss(eqx.Partial(toy, rates))
        start = {"x": jnp.zeros(2), "m": 19.0 * jnp.eye(2)}
        run = jf.central_flow(
            loss, start, 3000, step_size=0.1, every=3000, directions=2, max_step=0.5
        )
        modes = np.maximum(np.linalg.eigvalsh(2 * rates)[::-1], 0)
        np.testing.assert_allclose(run.edge.modes[-1], modes, atol=1e-6)
        assert run.edge.gap[-1] < 1e-7

    def test_too_few_directions_are_noticed(self):
        """Both rise at the same rate, and only one can be held."""
        loss = jf.losses.FunctionLoss(eqx.Partial(toy, 0.01 * jnp.eye(2)))
        start = {"x": jnp.zeros(2), "m": jnp.diag(jnp.array([19.9, 19.0]))}
        run = jf.central_flow(loss, start, 1500, step_size=0.1, every=300, directions=1)
        assert run.edge.saturated
        assert run.record_steps.tolist() == [0, 300, 600, 900, 1200, 1500]

    def test_directions_grow_until_they_are_enough(self, monkeypatch):
        """But not where nobody can look, or as many were asked for."""
        monkeypatch.setattr(module, "FEW", 1)
        loss = jf.losses.FunctionLoss(eqx.Partial(toy, 0.01 * jnp.eye(2)))
        start = {"x": jnp.zeros(2), "m": jnp.diag(jnp.array([19.9, 19.0]))}
        go = lambda: jf.central_flow(loss, start, 1500, step_size=0.1, every=300)
        edge = go().edge
        assert edge.modes.shape == (6, 2)
        np.testing.assert_allclose(edge.modes[-1], 0.02, atol=1e-6)
        assert not edge.saturated
        assert eqx.filter_eval_shape(go).edge.modes.shape == (6, 1)

    @pytest.mark.parametrize("strength", [3.0, 30.0])
    def test_rmsprop(self, strength):
        """It swings by half a step size on any parabola."""

        def parabola(strength, n):
            return strength * n["x"] ** 2 / 2

        loss = jf.losses.FunctionLoss(eqx.Partial(parabola, jnp.asarray(strength)))
        optimizer = eqx.Partial(optax.rmsprop, decay=0.99, eps=1e-16)
        run = jf.central_flow(
            loss,
            {"x": jnp.ones(())},
            3000,
            step_size=0.02,
            every=3000,
            directions=1,
            optimizer=optimizer,
        )
        np.testing.assert_allclose(run.edge.modes[-1, 0], 0.02**2 / 4, rtol=1e-3)
        np.testing.assert_allclose(run.edge.eigenvalues[-1, 0], 100, rtol=1e-3)
        assert run.edge.threshold == jf.observables.stability_threshold(0.02)

    def test_edges_are_those_of_the_optimizers(self):
        start = {"x": jnp.ones(1), "m": jnp.ones((1, 1))}
        loss = jf.losses.FunctionLoss(eqx.Partial(toy, jnp.ones((1, 1))))
        for optimizer, options in (
            (eqx.Partial(optax.sgd, momentum=0.9), {"momentum": 0.9}),
            (
                eqx.Partial(optax.sgd, momentum=0.5, nesterov=True),
                {"momentum": 0.5, "nesterov": True},
            ),
            (optax.adam, {"momentum": 0.9, "average": True}),
        ):
            run = jf.central_flow(
                loss, start, 1, step_size=0.01, directions=1, optimizer=optimizer
            )
            wanted = jf.observables.stability_threshold(0.01, **options)
            np.testing.assert_allclose(run.edge.threshold, wanted)


@pytest.fixture(scope="module")
def case():
    """The paper's data, and a start whose flow would end at a sharpness of 25.19."""
    path = Path(__file__).parents[1] / "data" / "central_flow.json"
    data = json.loads(path.read_text())
    problem = jf.Regression.from_data(np.array(data["x"]), np.array(data["y"]))
    network = jf.DeepLinear(tuple(jnp.array(w) for w in data["weights"]))
    return problem, network


@pytest.fixture(scope="module")
def shown(case):
    """Means of descent over 20 steps, around steps 100 and 300."""
    problem, network = case
    centered = jf.observables.time_averaged(jf.sharpness, step_size=0.1)
    swing = eqx.Partial(jf.observables.oscillation_variance, step_size=0.1)
    watch = {"loss": jf.loss_value, "sharpness": centered, "oscillation": swing}
    records = (*range(91, 111), *range(291, 311))
    descent = jf.gradient_descent(
        problem, network, 310, step_size=0.1, every=records, observe=watch
    )
    return {k: np.reshape(v[1:], (2, 20)).mean(1) for k, v in descent.observed.items()}


class TestDescent:
    @pytest.mark.parametrize(
        "directions", [1, pytest.param(3, marks=pytest.mark.exhaustive)]
    )
    def test_at_the_edge(self, case, shown, directions):
        """Numbers of another implementation with steps of a quarter, and of descent.

        The former to 2e-3, for our steps are others; the latter within the 3, 5 and 20
        percent that the theory has, for it is of leading order; with the next order of
        sharpness within one.
        """
        problem, network = case
        watch = {"sharpness": jf.sharpness}
        run = jf.central_flow(
            problem,
            network,
            300,
            step_size=0.1,
            every=100,
            observe=watch,
            directions=directions,
        )
        edge = run.edge
        np.testing.assert_allclose(edge.average["loss"][1], 0.40438, rtol=2e-3)
        np.testing.assert_allclose(edge.modes[1, 0], 3.370e-3, rtol=2e-3)
        np.testing.assert_allclose(run.observed["sharpness"][1:], 20, rtol=1e-6)
        np.testing.assert_allclose(edge.average["loss"][1::2], shown["loss"], rtol=0.03)
        np.testing.assert_allclose(edge.modes[1::2, 0], shown["oscillation"], rtol=0.2)
        np.testing.assert_allclose(
            run.observed["sharpness"][1::2], shown["sharpness"], rtol=0.05
        )
        np.testing.assert_allclose(edge.corrected[1::2], shown["sharpness"], rtol=0.01)
        assert edge.violation[-1] < 0.01
        assert edge.residual[-1] < 1e-7

    @pytest.mark.exhaustive
    def test_limits_of_the_flow_get_flatter(self, case):
        """Numbers of another integration; with the rise of 0.1 % where the edge begins."""
        problem, network = case
        steps, watch = (
            (14, 18, 100, 440),
            {"limit": jf.dynamics.at_flow_limit(jf.sharpness)},
        )
        run = jf.gradient_descent(
            problem, network, 440, step_size=0.1, every=steps, observe=watch
        )
        wanted = [25.1902, 24.9100, 24.9348, 22.7052, 20.9609]
        np.testing.assert_allclose(run.observed["limit"], wanted, atol=1e-4)

    def test_below_the_edge_it_is_the_flow(self, case):
        problem, network = case
        run = jf.central_flow(
            problem, network, 100, step_size=0.02, every=50, directions=1, rtol=1e-5
        )
        flow = jf.gradient_flow(problem, network, run.time, solver=dfx.Tsit5())
        # By a method of order one, with steps of a quarter where the loss falls fast.
        np.testing.assert_allclose(run.observed["loss"], flow.observed["loss"], rtol=0.01)
        np.testing.assert_allclose(run.edge.modes, 0, atol=1e-12)
        assert not run.edge.saturated


class TestTransformations:
    """Slopes and batches, on a toy whose edge moves with everything."""

    def toy(self, rate):
        def bowl(rate, n):
            x, s, t = n["x"], n["s"], n["t"]
            stiff = s * x**2 / 2 + 0.05 * s**2 * x**2 * t + 0.7 * x**4 * (1 + t)
            return stiff - rate * s + 0.3 * (t - 0.5) ** 2 + 0.02 * x * t**3

        return jf.losses.FunctionLoss(eqx.Partial(bowl, rate))

    def run(self, rate, step_size, directions=1):
        start = {"x": jnp.zeros(()), "s": jnp.asarray(15.0), "t": jnp.asarray(0.1)}
        return jf.central_flow(
            self.toy(rate),
            start,
            30,
            step_size=step_size,
            every=3,
            directions=directions,
            rtol=1.0,  # Steps that do not change make finite differences smooth.
        ).edge

    def swing(self, rate, step_size):
        return self.run(rate, step_size).modes[-1, 0]

    @pytest.mark.exhaustive
    @pytest.mark.parametrize("directions", [1, 3])
    def test_slopes(self, directions):
        """Of all that is reported, also below the edge; backwards, and then forwards."""

        def seen(rate, step_size):
            edge = self.run(rate, step_size, directions)
            modes = jnp.sum(edge.modes, axis=1)
            return jnp.stack([modes, edge.average["loss"], edge.corrected])

        seen, at = jax.jit(seen), (jnp.asarray(0.01), jnp.asarray(0.1))
        slopes = jax.jit(jax.jacrev(seen, (0, 1)))(*at)
        assert np.all(seen(*at)[0, :2] < 1e-7)  # And not zero: found from inside.
        assert seen(*at)[0, -1] > 1e-3
        for k, h in ((0, 1e-7), (1, 1e-6)):
            there, back = ([*at], [*at])
            there[k], back[k] = at[k] + h, at[k] - h
            numeric = (seen(*there) - seen(*back)) / (2 * h)
            # Found from inside, what does not swing, or hardly, is known to 1e-8, and its
            # slope not as well.
            options = {"rtol": 1e-4, "atol": 1e-6}
            if directions > 1:
                options = {"rtol": 1e-3, "atol": 1e-5}
            np.testing.assert_allclose(slopes[k], numeric, **options)

    @pytest.mark.exhaustive
    def test_slopes_of_two_directions(self):
        """Modes are twice the rates, as long as both are held."""
        rates = jnp.array([[0.01, 0.004], [0.004, 0.02]])
        start = {"x": jnp.zeros(2), "m": 19.9 * jnp.eye(2)}

        def modes(rates):
            loss = jf.losses.FunctionLoss(eqx.Partial(toy, rates))
            options = {"step_size": 0.1, "every": 500, "directions": 2}
            return jf.central_flow(loss, start, 500, **options).edge.modes[-1]

        wanted = jax.jacrev(lambda rates: 2 * jnp.linalg.eigvalsh(rates)[::-1])(rates)
        found = jax.jacrev(modes)(rates)
        symmetric = lambda m: m + jnp.swapaxes(m, 1, 2)
        np.testing.assert_allclose(symmetric(found), symmetric(wanted), atol=1e-3)

    def test_a_batch_is_its_members(self):
        rates = jnp.array([0.005, 0.01, 0.02])
        step_size = jnp.asarray(0.1)
        batch = jax.vmap(self.swing, (0, None))(rates, step_size)
        alone = [self.swing(rate, step_size) for rate in rates]
        np.testing.assert_allclose(batch, alone, rtol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps"),
        ({"directions": 0}, "directions"),
        ({"directions": 4}, "directions"),
        ({"every": 3}, "divide"),
        ({"step_size": -1.0}, "step_size"),
        ({"rtol": 0.0}, "rtol"),
        ({"optimizer": optax.lion}, "optax.rmsprop"),
        ({"optimizer": eqx.Partial(optax.rmsprop, centered=True)}, "centered"),
    ],
)
def test_what_cannot_be(options, message):
    start = {"x": jnp.zeros(1), "m": jnp.ones((1, 1)), "t": jnp.zeros(1)}
    loss = jf.losses.FunctionLoss(eqx.Partial(toy, jnp.ones((1, 1))))
    with pytest.raises(ValueError, match=message):
        jf.central_flow(loss, start, **({"steps": 10, "step_size": 0.1} | options))
