r"""Ziyin, Li & Meng (2022), "Exact Solutions of a Deep Linear Network" (NeurIPS 2022, arXiv
2202.04777).

Setting: a linear network with $D$ hidden layers of widths $d_1, \dots, d_D$, so $D + 1$
layers, and the paper's loss, which is `ExpectedNoisyLoss(problem, variance) +
WeightDecay(decay)`, with no factor one half:

$$ E \|W_{D+1}\, \epsilon_D \odot W_D \cdots \epsilon_1 \odot W_1 x - y\|^2
   + \sum_{i=1}^{D+1} \gamma_i \|W_i\|_F^2, $$

with independent factors $\epsilon$ of mean one and variance $\sigma_i^2$ on every hidden
neuron. Data enter by $A = E[x x^\top]$, $g = E[y x]$ and $E[y^2]$. Everywhere `widths` are
those of the hidden layers, none for $D = 0$; `variance` is one number or one for each
hidden layer, `decay` one or one for each layer, the first one first.

All formulas were derived for this library and are tested against direct numerics: the
paper's text could be compared in part only. For one output the minimum over all weights
with end-to-end vector $v$ is

$$ \Phi(v) = E[y^2] - 2 g \cdot v + \rho^{-1} v^\top A v + (D+1)\, \gamma\,
   |v|^{2/(D+1)}, $$

with $\rho = \prod d_i / (d_i + \sigma_i^2)$ and $\gamma$ the geometric mean of the decays.
Its stationary points are $v = \rho (A + \lambda)^{-1} g$, ridge solutions that shrink, on
one curve $\gamma = \lambda |v|^{2D/(D+1)} / \rho$ in $\lambda$, along which decay, loss and
stability turn at the same points. There are at most two for each distinct eigenvalue of
$A$, because $\log \lambda$ enters by convolution with a Pólya frequency function.

Three statements are easily made too strong, and some remember them so. The upper bound of
the paper's scalar $b$ holds with the smallest eigenvalue of $A$, not the largest. There can
be more than two nonzero solutions where $A$ is anisotropic, and a second local minimum
among them. In hidden layers without noise, neurons of a global minimum need not be equal up
to sign.

Everything can be batched with `jax.vmap`. Derivatives are exact once in the data, and twice
in decay and noise.
"""

from .theory import (
    Bounds as Bounds,
    Minimum as Minimum,
    Modes as Modes,
    Stationary as Stationary,
    Transition as Transition,
    configuration as configuration,
    critical_point as critical_point,
    effective_loss as effective_loss,
    escape_norm as escape_norm,
    minimizer as minimizer,
    minimum as minimum,
    modes as modes,
    norm_bounds as norm_bounds,
    origin_spectrum as origin_spectrum,
    prediction_variance as prediction_variance,
    shrinkage as shrinkage,
    spinodal_point as spinodal_point,
    stationary as stationary,
)
