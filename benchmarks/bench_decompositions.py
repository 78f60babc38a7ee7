"""What does it cost to decompose the members of a batch one after the other?

`ratio` is to `jax.numpy.linalg`'s batches, which share members among threads, and can wait
for ever on a CPU (`tests/hang.py --ordinary`); `taskset -c 0` for one core.
"""

import argparse

import jax
import jax.random as jr
from common import TINY, data, measure, report, start

import jaxflow as jf
from jaxflow._linalg import decompositions

OBSERVABLES = (
    jf.alignment,
    jf.observables.linear_gauss_newton_spectrum,
    jf.observables.singular_values,
)


def rows(options):
    loss = jf.Regression.from_data(*data(5, 50))
    keys = jr.split(jr.key(0), options.batch)
    networks = jax.vmap(lambda key: start(key, TINY))(keys)
    ours = decompositions.on_cpu
    for observable in OBSERVABLES:
        for method, answer in (("ordinary", lambda: False), ("in turn", ours)):
            decompositions.on_cpu = answer
            jax.clear_caches()
            call = jax.jit(jax.vmap(lambda n, observable=observable: observable(loss, n)))
            _, times = measure(call, networks)
            yield {"case": observable.__name__, "method": method, **times}
    decompositions.on_cpu = ours


def main():
    jax.config.update("jax_enable_x64", True)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=1000, help="networks at once")
    report(__doc__.splitlines()[0], rows(parser.parse_args()))


if __name__ == "__main__":
    main()
