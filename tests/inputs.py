"""What every public function makes of wrong arguments, as users call it.

That is without checks of types. `python inputs.py` tries them all and prints what is not
right, as JSON: for each name the cases that end in an error from elsewhere, or in a number.
`CALLS` holds a right call of each.
"""

import json
import operator
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import jaxflow as jf

jax.config.update("jax_enable_x64", True)
bp, ex, mc, mm, zl = (
    getattr(jf.papers, name)
    for name in (
        "baldassi_pittorino_zecchina_2020",
        "exact_solutions",
        "marion_chizat_2024",
        "mulayoff_michaeli_2020",
        "ziyin_li_meng_2022",
    )
)
PACKAGE = str(Path(jf.__file__).parent)


class Arg(NamedTuple):
    """An argument of a right call: what it is, and what of it is wrong."""

    value: Any
    kind: str


def _kinds(**wrong):
    return {kind: tuple(values.split()) for kind, values in wrong.items()}


# Of each kind of argument, what must be refused; and of numbers, what must be refused or
# give `nan`.
NEVER = "text none thing function complex half list_of_text key"
REFUSED = _kinds(
    whole="1.5 text nan inf complex thing function true list -1 huge",
    positive=f"0 -1 {NEVER} pair",
    size=f"-1 {NEVER} pair",  # Not negative.
    number=f"{NEVER} pair",
    # `None` is often a default.
    array="text none function complex_like text_like 0d 4d",
    data="text none function complex_like bfloat16_like text_like 0d 4d nan_like inf_like",
    network="text none 3 complex_like bfloat16_like float16_like int_like numpy_like",
    linear="text none 3 complex_like bfloat16_like float16_like int_like module",
    loss="text none 3 wrong_loss",
    regression="text none 3 function wrong_loss another_sum",
    problem="text none 3 function another_sum",  # Of any number of outputs.
    strengths=f"0 -1 {NEVER}",
    key="text none 0 1.5 list vector keys",
    widths="text none 3 1.5 list_of_text list_of_1.5 list_of_-1 list_of_0",
    choice="text none 3 list",
    function="text 3 list vector",
    mapping="text 3 list function list_of_functions map_of_text map_of_3 map_of_keys",
    kernel="text none 3 function thing",
    optimizer="text none 3 list vector identity",
    layers="text none 3 function text_like vector",
    weights="text none thing function text_like 0d 4d",
    stack="text none 3",
    metric="text 3 function complex_like zero_like nan_like",
    labels="text none 1.5 text_like -1 complex",
    solver="text 3 function euler",
    seed="1.5 text nan inf complex thing function true list huge",
    signal="text thing function complex_like text_like 0d 4d",
    tolerance="-1 text thing function complex half list_of_text key pair",
)
NAN = _kinds(
    signal="nan_like",
    tolerance="nan inf -inf",
    problem="nan_like",
    strengths="nan inf -inf",
    positive="nan inf -inf",
    size="nan inf -inf",
    number="nan",
    array="nan_like",
    network="nan_like",
    linear="nan_like",
    regression="nan_like",
)
WRONG = {
    "text": "text",
    "none": None,
    "thing": object(),
    "function": lambda *_: 1.0,
    "complex": 1j,
    "half": np.ones((3, 2), np.float16),
    "list_of_text": ["a", "b"],
    "key": jr.key(0),
    "keys": jr.split(jr.key(0)),
    "pair": np.array([0.1, 0.2]),
    "list": [1, 2],
    "true": True,
    "huge": 10**30,
    "nan": np.nan,
    "inf": np.inf,
    "-inf": -np.inf,
    "0": 0,
    "-1": -1,
    "3": 3,
    "1.5": 1.5,
    "0d": 0.5,
    "4d": np.ones((2, 2, 2, 2)),
    "list_of_1.5": [3, 1.5, 3],
    "list_of_-1": [3, -1, 3],
    "list_of_0": [3, 0, 3],
    "vector": jnp.ones(3),
    "list_of_functions": [jf.sharpness],
    "map_of_text": {"a": "b"},
    "map_of_3": {"a": 3},
    "map_of_keys": {3: jf.loss_value},
    "identity": lambda step_size: step_size,
    "module": eqx.nn.MLP(3, 1, 4, 1, key=jr.key(0)),
    "euler": dfx.Euler(),
    "another_sum": jf.WeightDecay(0.1) + jf.WeightDecay(0.2),
}
LIKE = {
    "nan": lambda x: jnp.full_like(x, jnp.nan),
    "inf": lambda x: jnp.full_like(x, jnp.inf),
    "complex": lambda x: x + 1j,
    "bfloat16": lambda x: x.astype(jnp.bfloat16),
    "float16": lambda x: x.astype(jnp.float16),
    "int": lambda x: x.astype(int),
    "bool": lambda x: x > 0,
    "numpy": np.asarray,
    "text": lambda x: np.full(x.shape, "a"),
    "zero": jnp.zeros_like,
}


def wrong(label: str, given: Arg) -> Any:
    """The wrong argument of this name, in the place of a right one."""
    if label == "wrong_loss":
        return _elsewhere(given.value)
    if not label.endswith("_like"):
        return WRONG[label]
    change = LIKE[label.removesuffix("_like")]
    real = lambda x: eqx.is_inexact_array(x) or isinstance(x, np.ndarray)
    array = lambda x: change(x) if real(x) else x
    return jax.tree.map(array, given.value)


def _elsewhere(loss):
    """A loss that the network does not fit."""
    if isinstance(loss, jf.committee.Classification):
        return jf.committee.random_patterns(4, 7, key=jr.key(0))
    return jf.Regression.from_data(jr.normal(jr.key(0), (9, 4)), jnp.ones((9, 2)))


x = np.random.default_rng(0).normal(size=(12, 3))
X, Y = jnp.asarray(x), jnp.asarray(x @ np.ones((3, 1)) + 0.1 * x[:, :1] ** 2)
PROBLEM, SQUARE = (
    jf.Regression.from_data(X, Y),
    jf.Regression.from_data(X, X @ (jnp.eye(3) + 0.1)),
)
WHITE = jf.Regression(jnp.diag(jnp.array([2.0, 1.0, 0.5])), jnp.eye(3), jnp.zeros(()))
NET = jf.init.gaussian((3, 3, 1), scale=0.5, key=jr.key(1))
DEEP = jf.init.gaussian((3, 3, 3), scale=0.5, key=jr.key(1))
SAMPLES = jf.MeanSquaredError(X, Y)
PATTERNS = jf.committee.random_patterns(6, 9, key=jr.key(0))
COMMITTEE = jf.init.committee(3, 9, key=jr.key(0))
RELU = bp.ReLUUnits()


def whole(value):
    return Arg(value, "whole")


def positive(value):
    return Arg(value, "positive")


def size(value):
    return Arg(value, "size")


def number(value):
    return Arg(value, "number")


def free(value):
    return Arg(value, "free")


def array(value):
    return Arg(jnp.asarray(value), "array")


def data(value):
    return Arg(jnp.asarray(value), "data")


LOSS, NETWORK = Arg(PROBLEM, "loss"), Arg(NET, "network")
REGRESSION, LINEAR = Arg(PROBLEM, "regression"), Arg(NET, "linear")
KEY, WIDTHS = Arg(jr.key(0), "key"), Arg((3, 2, 1), "widths")
WATCH, FUNCTION = Arg({"loss": jf.loss_value}, "mapping"), Arg(jnp.tanh, "function")
SPHERE, KERNEL = Arg("spherical", "choice"), Arg(RELU, "kernel")
SEED = Arg(0, "seed")
PLACE = {"loss": LOSS, "network": NETWORK}
ANY = {"loss": free(PROBLEM), "network": NETWORK}
PART = Arg("hessian", "choice")
SCALED = {"widths": WIDTHS, "scale": size(0.3), "key": KEY}
DEPTH = {"problem": REGRESSION, "depth": whole(2)}
ENTROPY = {"kernel": KERNEL, "load": positive(0.3)}
NOISY = {"problem": REGRESSION, "widths": Arg((2,), "widths"), "variance": size(0.1)}
DECAYED = {**NOISY, "decay": Arg(0.1, "strengths")}
MATRIX = {"problem": Arg(PROBLEM, "problem"), "depth": whole(2)}
CLASSES = {"loss": Arg(PATTERNS, "loss"), "network": Arg(COMMITTEE, "network")}
TIMES = array([0.0, 0.5])

# A right call of each public name.
CALLS: dict[str, dict[str, Arg]] = {
    "DeepLinear": {"weights": Arg(NET.weights, "layers")},
    "MLP": {"weights": Arg(NET.weights, "layers"), "activation": FUNCTION},
    "networks.ResidualMLP": {
        "weights": Arg(DEEP.weights, "layers"),
        "activation": FUNCTION,
    },
    "networks.ConvNet": {
        "kernels": Arg((jnp.ones((2, 1, 3, 3)),), "layers"),
        "readout": Arg(jnp.ones((1, 18)), "weights"),
        "activation": FUNCTION,
        "image": Arg((1, 3, 3), "widths"),
        "stride": whole(1),
    },
    "networks.DiagonalLinear": {
        "positive": Arg(jnp.ones((2, 3)), "weights"),
        "power": whole(1),
    },
    "networks.SymmetricLinear": {"factor": Arg(jnp.ones((3, 2)), "weights")},
    "committee.Committee": {
        "weights": Arg(jnp.ones((3, 3)), "weights"),
        "unit": Arg(jnp.sign, "function"),
        "vote": Arg("sum", "choice"),
    },
    "networks.NoisyNetwork": {"network": Arg(NET, "text none 3"), "variance": size(0.1)},
    "networks.gaussian_factors": {
        "key": KEY,
        "shape": free((3,)),
        "variance": size(jnp.asarray(0.1)),
    },
    "networks.dropout_factors": {
        "key": KEY,
        "shape": free((3,)),
        "variance": size(jnp.asarray(0.1)),
    },
    "init.draw": {
        "widths": WIDTHS,
        "initializer": Arg(jax.nn.initializers.lecun_normal(), "function"),
        "key": KEY,
    },
    "init.gaussian": SCALED,
    "init.orthogonal": SCALED,
    "init.residual": {
        "width": whole(3),
        "depth": whole(2),
        "scale": size(0.1),
        "key": KEY,
    },
    "init.identity": {"widths": WIDTHS},
    "init.balanced": {
        "product": data(jnp.ones((2, 3))),
        "depth": whole(2),
        "width": whole(3),
    },
    "init.factorization": {"product": data(jnp.ones((1, 3))), **SCALED},
    "init.balanced_rank_one": SCALED,
    "init.convolutional": {
        "image": Arg((1, 3, 3), "widths"),
        "channels": Arg((2,), "widths"),
        "size": whole(3),
        "outputs": whole(2),
        "scale": size(0.3),
        "activation": FUNCTION,
        "stride": whole(1),
        "key": KEY,
    },
    "init.committee": {
        "hidden": whole(3),
        "inputs": whole(9),
        "unit": Arg(jnp.sign, "function"),
        "vote": Arg("sum", "choice"),
        "key": KEY,
    },
    "Regression": {
        "target": array(PROBLEM.target),
        "covariance": array(PROBLEM.covariance),
        "floor": number(jnp.zeros(())),
    },
    "Regression.from_data": {"x": data(X), "y": data(Y), "readout": data([[1.0]])},
    "Regression.from_moments": {
        "covariance": data(jnp.eye(3)),
        "cross": data([[1.0, 0.0, 0.0]]),
        "power": positive(2.0),
    },
    "Regression.denoising": {"x": data(X), "noise": size(0.1)},
    "losses.whiten": {"problem": REGRESSION},
    "MeanSquaredError": {"x": data(X), "y": data(Y), "readout": data([[1.0]])},
    "CrossEntropy": {"x": data(X), "labels": Arg(np.arange(12) % 3, "labels")},
    "losses.MatrixSensing": {"x": data(jnp.ones((2, 1, 3))), "y": data([1.0, 2.0])},
    "losses.ExpectedNoisyLoss": {"regression": REGRESSION, "variance": size(0.1)},
    "losses.SampledNoisyLoss": {
        "error": Arg(SAMPLES, "text none 3 wrong_loss"),
        "variance": size(0.1),
        "key": KEY,
        "draws": whole(1),
        "factors": Arg(jf.networks.gaussian_factors, "function"),
    },
    "WeightDecay": {"strength": size(0.1)},
    "losses.Scheduled": {
        "loss": Arg(PATTERNS, "text none 3"),
        "robustness": Arg(optax.constant_schedule(1.0), "function"),
    },
    "losses.Normalized": {"loss": Arg(PATTERNS, "text none 3")},
    "losses.Replicated": {"loss": Arg(PATTERNS, "text none 3"), "coupling": size(0.1)},
    "losses.replica_mean": {"network": Arg(jax.tree.map(lambda w: w[None], NET), "stack")},
    "losses.FunctionLoss": {"function": Arg(PROBLEM, "function")},
    "committee.Classification": {
        "x": data(PATTERNS.x),
        "y": data(PATTERNS.y),
        "robustness": positive(1.0),
        "gain": positive(1.0),
    },
    "committee.random_patterns": {"samples": whole(4), "inputs": whole(3), "key": KEY},
    "committee.teacher_patterns": {
        "samples": whole(4),
        "teacher": Arg(NET, "text none 3"),
        "inputs": whole(3),
        "key": KEY,
    },
    "committee.mixture_patterns": {
        "samples": whole(4),
        "inputs": whole(3),
        "prototypes": whole(2),
        "flips": size(0.3),
        "data_key": KEY,
        "key": KEY,
    },
    "gradient_flow": {
        **PLACE,
        "times": array([0.0, 0.1]),
        "observe": WATCH,
        "until": Arg(None, "function"),
        "solver": Arg(None, "solver"),
        "rtol": Arg(1e-6, "tolerance"),
        "atol": Arg(1e-8, "tolerance"),
        "max_step": Arg(None, "function"),
        "max_steps": whole(1000),
        "adjoint": Arg(dfx.RecursiveCheckpointAdjoint(), "text 3 none"),
        "tolerance": Arg(1e-8, "tolerance"),
        "progress_meter": Arg(dfx.NoProgressMeter(), "text 3"),
    },
    "dynamics.ExponentialRosenbrock": {"tolerance": positive(1e-12), "krylov": whole(40)},
    "gradient_descent": {
        **PLACE,
        "steps": whole(4),
        "step_size": positive(0.01),
        "every": whole(2),
        "observe": WATCH,
        "until": Arg(None, "function"),
        "optimizer": Arg(optax.sgd, "optimizer"),
        "batch_size": Arg(None, "whole"),
        "key": Arg(None, "text 0 1.5 list vector keys"),
        "tolerance": size(1e-8),
        "progress_meter": Arg(dfx.NoProgressMeter(), "text 3"),
    },
    "central_flow": {
        **PLACE,
        "steps": whole(4),
        "step_size": positive(0.01),
        "every": whole(2),
        "observe": WATCH,
        "average": WATCH,
        "optimizer": Arg(optax.sgd, "optimizer"),
        "directions": whole(1),
        "rtol": positive(1e-3),
        "max_step": positive(0.25),
        "max_steps": whole(100),
        "tolerance": size(1e-8),
        "seed": SEED,
        "progress_meter": Arg(dfx.NoProgressMeter(), "text 3"),
    },
    "dynamics.at_flow_limit": {"observable": Arg(jf.sharpness, "function")},
    "mulayoff_michaeli_2020.minimize_sharpness": {
        "loss": REGRESSION,
        "network": LINEAR,
        "measure": Arg(jf.observables.linear_gauss_newton_spectrum, "function"),
        "steps": whole(2),
    },
    "committee.least_action_learning": {
        **CLASSES,
        "epochs": whole(2),
        "step_size": positive(0.1),
        "noise": Arg(0.0, "text none complex pair -1 nan"),
        "every": whole(1),
        "observe": WATCH,
        "key": KEY,
        "progress_meter": Arg(dfx.NoProgressMeter(), "text 3"),
    },
    "committee.focusing_bp": {
        **CLASSES,
        "focusing": Arg(jf.committee.Focusing(1.0, jnp.zeros(2)), "text none 3"),
        "damping": size(0.5),
        "every": whole(1),
        "observe": WATCH,
        "progress_meter": Arg(dfx.NoProgressMeter(), "text 3"),
    },
    "committee.Focusing": {
        "replicas": Arg(2.0, "text none thing complex half nan 0 -1"),
        "couplings": Arg(np.array([0.1, 0.2]), "text none thing complex 0d 4d nan_like"),
    },
    "committee.fixed_row_norms": {},
    "committee.entropy_sgd": {
        "step_size": positive(0.1),
        "scope": positive(0.1),
        "growth": number(0.0),
        "inner_steps": whole(2),
        "inner_step_size": positive(0.1),
        "noise": size(1e-4),
        "memory": size(0.5),
        "key": KEY,
    },
    "loss_value": PLACE,
    "weights": PLACE,
    "dynamics.with_state": {"function": Arg(lambda *_: 0.0, "function")},
    "observables.excess_loss": PLACE,
    "observables.gradient_norm": PLACE,
    "observables.distance": PLACE,
    "hessian": {**PLACE, "part": PART},
    "sharpness": {
        **PLACE,
        "preconditioner": Arg(jax.tree.map(jnp.ones_like, NET), "metric"),
        "start": Arg(None, "text 3 function"),
        "rtol": Arg(1e-8, "tolerance"),
        "max_matvecs": whole(100),
        "seed": SEED,
    },
    "spectrum": {
        **PLACE,
        "largest": whole(1),
        "smallest": whole(1),
        "part": PART,
        "preconditioner": Arg(jax.tree.map(jnp.ones_like, NET), "metric"),
        "start": Arg(None, "text 3 function"),
        "rtol": Arg(1e-8, "tolerance"),
        "max_matvecs": whole(100),
        "seed": SEED,
    },
    "observables.linear_gauss_newton_spectrum": {"loss": REGRESSION, "network": LINEAR},
    "observables.spectral_density": {
        **PLACE,
        "part": PART,
        "preconditioner": Arg(jax.tree.map(jnp.ones_like, NET), "metric"),
        "probes": whole(2),
        "matvecs": whole(2),
        "exact": whole(20),
        "seed": SEED,
    },
    "observables.stability_threshold": {"step_size": positive(0.1), "momentum": size(0.5)},
    "observables.preconditioner": {
        "state": Arg(optax.adam(0.1).init(NET), "text none 3"),
        "b1": size(0.9),
        "b2": size(0.9),
        "eps": Arg(1e-8, "tolerance"),
        "eps_root": size(0.0),
    },
    "observables.sharpening_rate": PLACE,
    "observables.oscillation_variance": {
        **PLACE,
        "step_size": positive(0.1),
        "directions": whole(1),
    },
    "observables.predicted_oscillation_variance": PLACE,
    "observables.step_cosine": {**PLACE, "step_size": positive(0.1)},
    "observables.time_averaged": {
        "observable": Arg(jf.sharpness, "function"),
        "step_size": positive(0.1),
    },
    "observables.neural_tangent_kernel": PLACE,
    "observables.kernel_target_alignment": {**PLACE, "targets": array([[1.0, 0.0, 2.0]])},
    "observables.singular_values": ANY,
    "alignment": {**ANY, "rank": whole(1), "tolerance": Arg(0.1, "tolerance")},
    "observables.random_alignment": {
        **ANY,
        "rank": whole(1),
        "tolerance": Arg(0.1, "tolerance"),
    },
    "observables.path_coupling": {**ANY, "signal": Arg(jnp.ones(3), "signal")},
    "imbalance": ANY,
    "observables.determinant": {"loss": free(SQUARE), "network": Arg(DEEP, "linear")},
    "observables.stable_rank": ANY,
    "observables.rank_one_gap": ANY,
    "observables.gains": {**ANY, "signal": Arg(jnp.ones(3), "signal")},
    "committee.error_rate": CLASSES,
    "committee.local_energy": {
        **CLASSES,
        "radius": Arg(0.1, "text none complex -1 nan"),
        "samples": whole(4),
        "seed": SEED,
    },
    "committee.local_entropy": {
        **CLASSES,
        "distance": Arg(0.1, "text none complex half -1 0 3 nan"),
        "walkers": whole(4),
        "stages": whole(2),
        "sweeps": whole(2),
        "seed": SEED,
    },
    "committee.zero_training_error": CLASSES,
    "marion_chizat_2024.curvatures": {"problem": REGRESSION},
    **{
        f"marion_chizat_2024.{name}": DEPTH
        for name in (
            *("sharpness_lower_bound", "sharpness_upper_bound", "balanced_sharpness"),
            *("small_start_sharpness_bound", "flattest_sharpness", "critical_step_size"),
        )
    },
    **{
        f"marion_chizat_2024.{name}": {**DEPTH, "width": whole(3)}
        for name in ("flattest_minimizer", "balanced_minimizer")
    },
    "marion_chizat_2024.conserved": {"problem": free(PROBLEM), "network": LINEAR},
    "marion_chizat_2024.rank_one_bound": {"problem": REGRESSION, "start": LINEAR},
    "marion_chizat_2024.alignment_bound": {
        "problem": REGRESSION,
        "start": LINEAR,
        "network": LINEAR,
    },
    "marion_chizat_2024.balanced_velocity": {**DEPTH, "w": array(jnp.ones(3))},
    "marion_chizat_2024.escape_time": {**DEPTH, "size": positive(1e-3)},
    **{
        f"mulayoff_michaeli_2020.{name}": MATRIX
        for name in (
            *("flattest_sharpness", "flattest_ratio", "dedicated_path"),
            *("sharpness_lower_bound", "balanced_sharpness_bound", "balanced_sharpness"),
            *("critical_step_size", "least_trace", "gain_bounds", "tail_gain_bounds"),
        )
    },
    **{
        f"mulayoff_michaeli_2020.{name}": {**MATRIX, "width": whole(3)}
        for name in ("flattest_minimizer", "least_trace_minimizer")
    },
    "mulayoff_michaeli_2020.sharpness_upper_bound": {
        "problem": REGRESSION,
        "network": LINEAR,
    },
    "mulayoff_michaeli_2020.near_balance": {"problem": REGRESSION, "network": LINEAR},
    "mulayoff_michaeli_2020.path_gain_bounds": {**MATRIX, "ratio": positive(1.5)},
    **{
        f"mulayoff_michaeli_2020.{name}": {
            "problem": Arg(WHITE, "regression"),
            "depth": whole(2),
        }
        for name in ("identity_sharpness", "residual_limit")
    },
    "exact_solutions.two_layer_mode": {
        "times": TIMES,
        "target": number(1.0),
        "first": number(0.1),
        "second": number(0.2),
        "variance": number(1.0),
    },
    "exact_solutions.chain_times": {
        "values": array([0.2, 0.5]),
        "start": array([0.3, 0.4]),
        "target": number(1.0),
        "variance": number(1.0),
    },
    "exact_solutions.two_layer_regression": {
        "problem": Arg(WHITE, "regression"),
        "network": Arg(jf.init.balanced(jnp.eye(3), 2), "linear"),
        "times": TIMES,
    },
    "exact_solutions.symmetric_factorization": {
        "target": array(jnp.eye(3)),
        "factor": array(jnp.ones((3, 2))),
        "times": TIMES,
    },
    "exact_solutions.autoencoder_modes": {
        "times": TIMES,
        "variances": array([1.0, 2.0]),
        "starts": array([0.1, 0.1]),
        "tied": free(True),
    },
    "exact_solutions.diagonal_map": {
        "integral": array(jnp.ones(3)),
        "first": array(jnp.ones(3)),
        "second": array(jnp.ones(3)),
        "power": whole(2),
    },
    "exact_solutions.diagonal_limit": {
        "problem": REGRESSION,
        "first": array(jnp.ones(3)),
        "second": array(0.5 * jnp.ones(3)),
        "power": whole(2),
    },
    "exact_solutions.end_to_end_velocity": {
        "problem": REGRESSION,
        "product": array(jnp.ones((1, 3))),
        "depth": whole(2),
        "rank": whole(1),
    },
    "baldassi_pittorino_zecchina_2020.SmoothUnits": {
        "activation": FUNCTION,
        "order": whole(100),
    },
    "baldassi_pittorino_zecchina_2020.gardner": {
        **ENTROPY,
        "margin": number(0.0),
        "weights": SPHERE,
    },
    "baldassi_pittorino_zecchina_2020.capacity": {
        "kernel": KERNEL,
        "margin": number(0.0),
        "weights": SPHERE,
    },
    "baldassi_pittorino_zecchina_2020.capacity_one_step": {"kernel": KERNEL},
    "baldassi_pittorino_zecchina_2020.committee_capacity": {"hidden": whole(3)},
    "baldassi_pittorino_zecchina_2020.cross_entropy_minimizer": {
        **ENTROPY,
        "strength": positive(1.0),
        "weights": SPHERE,
    },
    "baldassi_pittorino_zecchina_2020.local_energy": {
        **ENTROPY,
        "strength": positive(1.0),
        "radius": Arg(0.1, "text none complex -1 0 nan"),
    },
    "baldassi_pittorino_zecchina_2020.franz_parisi": {
        **ENTROPY,
        "distance": Arg(0.1, "text none complex half -1 0 3 nan"),
        "strength": Arg(None, "text -1 nan complex"),
        "weights": SPHERE,
    },
    "baldassi_pittorino_zecchina_2020.replica_entropy": {
        **ENTROPY,
        "distance": Arg(0.1, "text none complex half -1 0 3 nan"),
        "replicas": whole(2),
        "weights": SPHERE,
    },
    "baldassi_pittorino_zecchina_2020.widest_entropy": {
        **ENTROPY,
        "distance": Arg(0.1, "text none complex half -1 0 3 nan"),
    },
    "baldassi_pittorino_zecchina_2020.parity_entropy": {
        "hidden": whole(2),
        "load": positive(0.3),
        "distance": Arg(0.1, "text none complex half -1 0 3 nan"),
    },
    **{
        f"ziyin_li_meng_2022.{name}": DECAYED
        for name in ("minimum", "stationary", "minimizer", "prediction_variance")
    },
    "ziyin_li_meng_2022.norm_bounds": DECAYED,
    "ziyin_li_meng_2022.escape_norm": {
        **DECAYED,
        "problem": Arg(
            jf.Regression(jnp.ones((1, 3)), jnp.eye(3), jnp.zeros(())), "regression"
        ),
    },
    "ziyin_li_meng_2022.modes": {**DECAYED, "problem": Arg(WHITE, "regression")},
    "ziyin_li_meng_2022.configuration": {
        "problem": REGRESSION,
        "widths": Arg((2,), "widths"),
        "vector": array(jnp.ones(3)),
        "decay": Arg(0.1, "strengths"),
        "signs": Arg([np.ones(2)], "text 3 list list_of_text"),
    },
    "ziyin_li_meng_2022.effective_loss": {**DECAYED, "vector": array(jnp.ones(3))},
    "ziyin_li_meng_2022.origin_spectrum": {
        "problem": Arg(PROBLEM, "problem"),
        "widths": Arg((2,), "widths"),
        "decay": Arg(0.1, "strengths"),
    },
    **{
        f"ziyin_li_meng_2022.{name}": NOISY
        for name in ("shrinkage", "critical_point", "spinodal_point")
    },
}

# Answers that are right although they hold no `nan`, or names that take no arguments.
EXEMPT = {
    "init.convolutional(scale=pair)": "one for each layer",
    "WeightDecay(strength=pair)": "one for each layer",
    "losses.ExpectedNoisyLoss(variance=pair)": "one for each layer",
    "losses.SampledNoisyLoss(variance=pair)": "one for each layer",
    "Regression.from_data(readout=none)": "none",
    "Regression.from_data(readout=0d)": "one output, one neuron",
    "MeanSquaredError(readout=none)": "none",
    "MeanSquaredError(readout=0d)": "one output, one neuron",
    "gradient_descent(step_size=function)": "a schedule",
    "gradient_flow(network=nan_like)": "the integration fails, and says so",
    "committee.least_action_learning(every=list)": "records after 1 and 2 epochs",
    "committee.focusing_bp(every=list)": "records after 1 and 2 iterations",
    "observables.random_alignment(network=nan_like)": "of shapes alone",
    "committee.error_rate(network=nan_like)": "what is not a number is wrong",
    "committee.zero_training_error(network=nan_like)": "what is not a number is wrong",
    "weights(loss=wrong_loss)": "of no loss",
    **dict.fromkeys(
        (
            "marion_chizat_2024.rank_one_bound(problem=nan_like)",
            "marion_chizat_2024.alignment_bound(problem=nan_like)",
            "ziyin_li_meng_2022.configuration(problem=nan_like)",
            "ziyin_li_meng_2022.shrinkage(problem=nan_like)",
            "ziyin_li_meng_2022.shrinkage(problem=wrong_loss)",
        ),
        "of the problem's shapes alone",
    ),
    "losses.whiten(problem=wrong_loss)": "fits",
    "losses.ExpectedNoisyLoss(regression=wrong_loss)": "fits",
}


def function(name: str) -> Any:
    """What is called so."""
    paper = name.split(".")[0] in jf.papers.__all__
    return operator.attrgetter(name)(jf.papers if paper else jf)


def cases(name: str):
    """Each wrong argument: the name of the case, which and what, whether `nan` will do."""
    for what, given in CALLS[name].items():
        refused = REFUSED.get(
            given.kind, () if given.kind == "free" else given.kind.split()
        )
        for labels, will_do in ((refused, False), (NAN.get(given.kind, ()), True)):
            for label in labels:
                yield f"{name}({what}={label})", what, label, will_do


def fault(name: str, will_do: bool, arguments: dict[str, Any]) -> str | None:
    """What is wrong with what comes of it, if anything."""
    try:
        result = function(name)(**arguments)
    except (ValueError, TypeError, RuntimeError) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(str(error).split())[:200]
        if not last.filename.startswith(PACKAGE):
            return f"{type(error).__name__} from {last.filename}:{last.lineno}: {text}"
        known = (
            name.split(".")[-1].removeprefix("init."),
            "The network",
            "A loss",
            "ommittee",
        )
        named = any(word in text for word in known)
        return None if named else f"does not name it: {text}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    leaves = jax.tree.leaves(eqx.filter(result, eqx.is_inexact_array))
    unknown = any(bool(jnp.any(jnp.isnan(leaf))) for leaf in leaves)
    return None if will_do and unknown else f"returned {str(result)[:100]}"


def main(names):
    faults, count = {}, 0
    for name in names or CALLS:
        faults[name] = {}
        try:
            function(name)(**{key: arg.value for key, arg in CALLS[name].items()})
        except Exception as error:
            faults[name]["the right call"] = f"{type(error).__name__}: {str(error)[:300]}"
        for case, what, label, will_do in cases(name):
            count += 1
            arguments = {key: arg.value for key, arg in CALLS[name].items()}
            arguments[what] = wrong(label, CALLS[name][what])
            if case not in EXEMPT and (found := fault(name, will_do, arguments)):
                faults[name][case] = found
    print(json.dumps({"count": count, "faults": faults}))


if __name__ == "__main__":
    # Else errors of JAX look like ours.
    jax.config.update("jax_traceback_filtering", "off")
    warnings.simplefilter("ignore")
    main(sys.argv[1:])
