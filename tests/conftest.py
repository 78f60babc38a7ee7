"""What all tests share: float64, strict promotion, and problems that compile once."""

import gc
import importlib
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
from pathlib import Path

# Compiling is what takes the time. Also for notebooks and commands, which inherit it; with
# `JAX_DISABLE_MOST_OPTIMIZATIONS=0 pytest` it is as users have it.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # Of small matrices more are slower.
# Tests decompose batches by `jax.numpy.linalg`, to compare with, where XLA's threads may
# wait for each other (see `jaxflow/_linalg/decompositions.py`); one thread does not. What
# the library does with as many as there are cores is in `tests/hang.py`.
os.environ["NPROC"] = "1"


def _starts(flags: str) -> bool:
    """Whether this jaxlib knows these flags: it aborts at a name that it doesn't."""
    environment = {**os.environ, "XLA_FLAGS": flags}
    command = [sys.executable, "-c", "import jax; jax.devices()"]
    return not subprocess.run(command, env=environment, capture_output=True).returncode


# Half the time goes without these two. Workers, notebooks and commands inherit them.
_given = os.environ.get("XLA_FLAGS", "")
_quick = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
if "xla_cpu_use_fusion_emitters" not in _given and _starts(f"{_given} {_quick}"):
    os.environ["XLA_FLAGS"] = f"{_given} {_quick}".strip()

import jax  # noqa: E402

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
# Modules forget their programs (below), but need not compile again what is the same.
_compiled = tempfile.TemporaryDirectory()
jax.config.update("jax_compilation_cache_dir", _compiled.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

import jax.random as jr  # noqa: E402
import pytest  # noqa: E402

import jaxflow as jf  # noqa: E402
from jaxflow.plotting.axes import AXES  # noqa: E402

# Experiments import in threads, where CPython 3.11 sometimes
# fails to parse ("AST constructor recursion depth mismatch"), as type checking makes it do.
for module in pkgutil.walk_packages(jf.__path__, "jaxflow."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)

# What is imported stays; tracing makes many objects, and a tenth of the time went into
# looking which of them are garbage.
gc.freeze()
gc.set_threshold(200_000, 20, 100)


@pytest.fixture(scope="module", autouse=True)
def forget():
    """Compiled programs, of which a process can hold only so many."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session")
def check_axes():
    """That all axes of an experiment's results have a name in the list."""

    def check(tree):
        names = {dim for branch in tree.children.values() for dim in branch.sizes}
        assert names
        assert not names - {*AXES}

    return check


@pytest.fixture(scope="session")
def problem() -> jf.Regression:
    """Fifty samples in five dimensions, one output, and a floor above zero."""
    kx, kw, kn = jr.split(jr.key(0), 3)
    x = jr.normal(kx, (50, 5))
    return jf.Regression.from_data(
        x, x @ jr.normal(kw, (5, 1)) + 0.5 * jr.normal(kn, (50, 1))
    )


@pytest.fixture(scope="session")
def network() -> jf.DeepLinear:
    """Three layers that fit `problem`, somewhere on the way."""
    return jf.init.gaussian((5, 5, 5, 1), scale=0.4, key=jr.key(1))


@pytest.fixture(scope="session")
def reference() -> dict:
    """Values of an independent numpy and scipy implementation."""
    return _reference("marion_chizat")


@pytest.fixture(scope="session")
def flattest_reference() -> dict:
    """The same, for Mulayoff & Michaeli (2020)."""
    return _reference("mulayoff_michaeli")


@pytest.fixture(scope="session")
def noisy_reference() -> dict:
    """The same, for Ziyin, Li & Meng (2022)."""
    return _reference("ziyin_li_meng")


@pytest.fixture(scope="session")
def replica_reference() -> dict:
    """The same, for Baldassi, Pittorino & Zecchina (2020).

    Without values of that implementation that are wrong: binary replicas for $y = 20$ at
    load 0.6, where dense integration disagrees by 0.0008 to 0.035 (it agrees with ours to
    3e-13, which is tested), and a point around minimizers of robustness 0.5 at distance
    0.0005, which is the root $p = S^2$ of a boundary.
    """
    return _reference("baldassi_pittorino_zecchina")


@pytest.fixture(scope="session")
def exact_reference() -> dict:
    r"""Flows of $\sigma$ `loss`, from direct integration with tolerance 1e-13."""
    return _reference("exact_solutions")


def _reference(name):
    path = Path(__file__).parent / "data" / f"{name}.json"
    return json.loads(path.read_text())
