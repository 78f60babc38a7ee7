"""The recipe for clusters is run, to the letter, and what is no cluster is refused."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax.random as jr
import pytest
import xarray as xr

import jaxflow as jf

ROOT = Path(__file__).parents[2]
RECIPE = (ROOT / "docs" / "cluster.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", RECIPE, re.DOTALL)


def test_the_recipe_loses_a_worker_and_the_driver_and_no_result(tmp_path):
    study, _ = blocks("python")
    (tmp_path / "study.py").write_text(study)
    tidy = "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT"
    paths = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-e", "-c", "\n".join([tidy, *blocks("bash")])],
        cwd=tmp_path,
        env=os.environ | {"PATH": paths, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "chunks were found done" in done.stdout
    assert "<xarray.Dataset>" in done.stdout

    # The same without a cluster, and without the strictness of the tests.
    code = study.replace("client=client,", "").replace("runs.zarr", "alone.zarr")
    code = code.replace(
        'distributed.Client(scheduler_file="scheduler.json") as client',
        "jax.log_compiles()",
    )
    (tmp_path / "alone.py").write_text(code)
    subprocess.run(
        [sys.executable, "alone.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=300,
        check=True,
    )
    runs, alone = (jf.load(tmp_path / name).load() for name in ("runs.zarr", "alone.zarr"))
    xr.testing.assert_equal(runs, alone)
    assert (runs.status != -1).all()


def test_the_jobs_of_the_recipe_have_one_worker_with_a_gpu(tmp_path, monkeypatch):
    pytest.importorskip("dask_jobqueue")
    _, code = blocks("python")
    call = code[code.index("SLURMCluster(") : code.index("cluster.scale")]
    script = """
import dask, dask_jobqueue
dask.config.set({'jobqueue.slurm.job-directives-skip': []})
from dask_jobqueue import SLURMCluster
if __name__ == '__main__':
    with CALL as cluster:
        print(cluster.job_script())
""".replace("CALL", call.strip())
    (tmp_path / "jobs.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "jobs.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "#SBATCH --gres=gpu:1" in done.stdout
    assert "--lifetime 235m" in done.stdout


def test_what_is_no_client_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a `distributed\.Client`, but is str"):
        jf.sweep(
            lambda key: {"x": jr.normal(key)},
            key=jr.key(0),
            seeds=1,
            path=tmp_path / "runs",
            client="tcp://localhost:8786",
        )
    assert not list(tmp_path.iterdir())


def test_a_missing_dask_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxflow\[dask\]'"):
        jf.sweep(
            lambda key: {"x": jr.normal(key)},
            key=jr.key(0),
            seeds=1,
            path=tmp_path / "runs",
            client=object(),
        )
