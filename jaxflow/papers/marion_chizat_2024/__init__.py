r"""Marion & Chizat (2024), "Deep linear networks for regression are implicitly regularized
towards flat minima" (NeurIPS 2024, arXiv 2405.13456).

Setting: one output, depth $L \ge 1$, and the paper's loss, which is `Regression`:
$\frac1n \|y - X w\|^2$ with no factor one half. The end-to-end vector is
$w = W_1^\top \cdots W_L^\top p$ with a readout $p$ that is not trained; without one,
$p = 1$. $\Sigma = X^\top X / n$ has largest eigenvalue $\Lambda$; $w_\star$ is the
least-squares solution of smallest norm, $\hat w_\star$ its direction,
$a = \hat w_\star^\top \Sigma \hat w_\star$, and
$c = \|w_\star\|^{2-2/L} \|p\|^{2/L}$. Fewer samples than inputs are fine.

Where a docstring says "derived", the statement goes beyond what could be compared with the
paper's text: it was derived for this library and is tested against direct numerics.
"""

from .theory import (
    Curvatures as Curvatures,
    alignment_bound as alignment_bound,
    balanced_minimizer as balanced_minimizer,
    balanced_sharpness as balanced_sharpness,
    balanced_velocity as balanced_velocity,
    conserved as conserved,
    critical_step_size as critical_step_size,
    curvatures as curvatures,
    escape_time as escape_time,
    flattest_minimizer as flattest_minimizer,
    flattest_sharpness as flattest_sharpness,
    rank_one_bound as rank_one_bound,
    sharpness_lower_bound as sharpness_lower_bound,
    sharpness_upper_bound as sharpness_upper_bound,
    small_start_sharpness_bound as small_start_sharpness_bound,
)
