r"""Baldassi, Pittorino & Zecchina (2020), "Shaping the learning landscape in neural
networks around wide flat minima" (PNAS 117, 161-170, arXiv 1905.07833).

Setting: $\alpha N$ random patterns with random labels, stored without error by $N$ weights
in the limit $N \to \infty$. The weights are real, with a fixed norm in each unit
(`"spherical"`), or $\pm 1$ (`"binary"`). The device is a perceptron, or a tree committee of
infinitely many units; it enters by its overlap kernel alone. A distance is
$d = (1 - S)/2$ for weights of overlap $S$; an entropy is the logarithm of a volume of
weights over $N$. Fields have variance one, and the cross-entropy of strength $\gamma$ is
$f_\gamma(x) = \ln(1 + e^{-2 \gamma x}) / 2 \gamma$, of the output $x = s \lambda$ that is
the field times the scale of the device.

The paper claims that there are wide flat minima of the number of errors, that minimizers of
cross-entropy are found there, and that there are devices without them. Its formulas could
not be compared: all that is here was derived for this library, by the replica method with
symmetric replicas unless it is said otherwise, and is tested against known constants, an
independent implementation, and simulations. It is exact for spherical perceptrons with
margin zero or more, and an approximation where there are many states: for spherical
committees near their capacity, and for binary weights.

What has no solution is `nan`. Everything can be batched with `jax.vmap` in its numbers, but
is not differentiable. Use float64: entropies are then good to about $10^{-7}$, and to
$10^{-4}$ of themselves where there are next to no solutions, so that $p \to 1$.
"""

from .theory import (
    STEPS as STEPS,
    TOLERANCE as TOLERANCE,
    AbstractKernel as AbstractKernel,
    LocalEntropy as LocalEntropy,
    Minimizer as Minimizer,
    OneStep as OneStep,
    Perceptron as Perceptron,
    ReLUUnits as ReLUUnits,
    Replicas as Replicas,
    SignUnits as SignUnits,
    SmoothUnits as SmoothUnits,
    Typical as Typical,
    capacity as capacity,
    capacity_one_step as capacity_one_step,
    committee_capacity as committee_capacity,
    cross_entropy_minimizer as cross_entropy_minimizer,
    franz_parisi as franz_parisi,
    gardner as gardner,
    local_energy as local_energy,
    parity_entropy as parity_entropy,
    replica_entropy as replica_entropy,
    widest_entropy as widest_entropy,
)
