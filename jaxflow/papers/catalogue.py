"""The named experiments: what `jaxflow list` lists and `jaxflow run` runs.

An experiment is a module of a paper's folder with four functions: `run(**arguments)`, whose
keyword arguments are its flags, returns a labeled tree, and makes its sweeps with the
argument `sweep`, which takes a name first and knows where to keep them; `headline(tree)`
says what theory predicts; `summary(tree)` returns the table that answers its question;
`figures(tree)` draws it, by name. This file is free of heavy imports.
"""

import importlib
from types import ModuleType
from typing import NamedTuple


class Entry(NamedTuple):
    """Where an experiment is, and what it is about."""

    module: str
    summary: str


EXPERIMENTS = {
    "flat-minima": Entry(
        "marion_chizat_2024.flat_minima",
        "how flat training ends: flow and descent of deep linear regression beside the "
        "bounds of Marion & Chizat (2024)",
    ),
    "marion-chizat-2024": Entry(
        "marion_chizat_2024.experiment",
        "all experiments of Marion & Chizat (2024), beside the flow's limit and the exact "
        "theory",
    ),
    "mulayoff-michaeli-2020": Entry(
        "mulayoff_michaeli_2020.experiment",
        "flattest minima of linear networks from inside, and what ends there, beside the "
        "exact theory beyond Mulayoff & Michaeli (2020)",
    ),
    "denoisers": Entry(
        "mulayoff_michaeli_2020.denoisers",
        "the nonlinear experiments of Mulayoff & Michaeli (2020): flatness and coupling of "
        "trained denoisers, by depth, step size and optimizer",
    ),
    "ziyin-li-meng-2022": Entry(
        "ziyin_li_meng_2022.experiment",
        "exact global minima with weight decay and noisy neurons, after Ziyin, Li & Meng "
        "(2022), and who finds them",
    ),
    "baldassi-pittorino-zecchina-2020": Entry(
        "baldassi_pittorino_zecchina_2020.experiment",
        "wide flat minima of shallow networks, after Baldassi, Pittorino & Zecchina "
        "(2020): who finds them, and replica theory",
    ),
    "cohen-2025": Entry(
        "cohen_2025.experiment",
        "what descent does above 2/step size: beside the flow and the central flow, on "
        "linear and nonlinear networks, with four optimizers",
    ),
    "exact-solutions": Entry(
        "exact_solutions.experiment",
        "linear networks beside their exact solutions, and nonlinear ones beside them: "
        "flow, sharpness, alignment and tangent kernel on real data",
    ),
}


def load_experiment(name: str) -> ModuleType:
    """The module of a named experiment."""
    return importlib.import_module(f"{__package__}.{EXPERIMENTS[name].module}")
