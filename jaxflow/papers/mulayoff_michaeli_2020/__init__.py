r"""Mulayoff & Michaeli (2020), "Unique Properties of Flat Minima in Deep Networks" (ICML
2020, arXiv 2002.04710).

Setting: a linear network of depth $L$ and any numbers of inputs, hidden neurons and outputs
on a `Regression`, whose loss is $\frac1n \sum_i \|W_L \cdots W_1 x_i - y_i\|^2$ with no
factor one half. Its target is $T = W_\star$, with singular values
$\sigma = s_1 \ge s_2 \ge \dots$ and top vectors $u$ and $v$; $R = \Sigma^{1/2}$.
$A_k = W_{k-1} \cdots W_1$ and $B_k = W_L \cdots W_{k+1}$ are what surrounds layer $k$. Data
are white if $\Sigma = I$; see `whiten`. At minima, `linear_gauss_newton_spectrum` has all
nonzero eigenvalues of the Hessian, from a small matrix.

The paper claims that the flattest minima are nearly balanced and have layers that agree in
one singular vector each, along a path dedicated to the signal of largest gain, and that
linear residual networks that start from zero residuals end there. Its formulas could not be
compared: all that is here was derived for this library, for white and other data alike, and
is tested against direct numerics. The claim on residual networks needs white data, and a
target that the flow can reach; see `residual_limit`.
"""

from .minimization import (
    minimize_sharpness as minimize_sharpness,
)
from .theory import (
    Bounds as Bounds,
    DedicatedPath as DedicatedPath,
    balanced_sharpness as balanced_sharpness,
    balanced_sharpness_bound as balanced_sharpness_bound,
    critical_step_size as critical_step_size,
    dedicated_path as dedicated_path,
    flattest_minimizer as flattest_minimizer,
    flattest_ratio as flattest_ratio,
    flattest_sharpness as flattest_sharpness,
    gain_bounds as gain_bounds,
    identity_sharpness as identity_sharpness,
    least_trace as least_trace,
    least_trace_minimizer as least_trace_minimizer,
    near_balance as near_balance,
    path_gain_bounds as path_gain_bounds,
    residual_limit as residual_limit,
    sharpness_lower_bound as sharpness_lower_bound,
    sharpness_upper_bound as sharpness_upper_bound,
    tail_gain_bounds as tail_gain_bounds,
)
