"""The named experiments: what `jaxflow list` lists and `jaxflow run` runs.

An experiment is a module of this package with four functions: `run(**arguments)`, whose
keyword arguments are its flags, returns a labeled tree, and makes its sweeps with the
argument `sweep`, which takes a name first and knows where to keep them; `headline(tree)`
says what theory predicts; `summary(tree)` returns the table that answers its question;
`figures(tree)` draws it, by name. Kept free of heavy imports.
"""

import importlib
from types import ModuleType

EXPERIMENTS = {
    "flat-minima": "how flat training ends: flow and descent of deep linear regression "
    "beside the bounds of Marion & Chizat (2024)",
    "marion-chizat": "all experiments of Marion & Chizat (2024), beside the flow's limit "
    "and the exact theory",
    "mulayoff-michaeli": "flattest minima of linear networks from inside, and what ends "
    "there, beside the exact theory beyond Mulayoff & Michaeli (2020)",
    "denoisers": "the nonlinear experiments of Mulayoff & Michaeli (2020): flatness and "
    "coupling of trained denoisers, by depth, step size and optimizer",
    "ziyin-li-meng": "exact global minima with weight decay and noisy neurons, after "
    "Ziyin, Li & Meng (2022), and who finds them",
    "baldassi-pittorino-zecchina": "wide flat minima of shallow networks, after Baldassi, "
    "Pittorino & Zecchina (2020): who finds them, and replica theory",
    "networks": "linear networks beside their exact solutions, and nonlinear ones beside "
    "them: flow, sharpness, alignment and tangent kernel on real data",
    "edge-of-stability": "what descent does above 2/step size: beside the flow and the "
    "central flow, on linear and nonlinear networks, with four optimizers",
}


def load_experiment(name: str) -> ModuleType:
    """The module of a named experiment."""
    return importlib.import_module(f"{__package__}.{name.replace('-', '_')}")
