"""What papers predict and what is measured: a folder each, all under one name.

`jf.papers.<paper>.<quantity>(loss, ...)` are closed forms, no simulation; the experiment
that sets them beside simulations is `jaxflow run <paper>`.
"""

from . import (
    baldassi_pittorino_zecchina_2020 as baldassi_pittorino_zecchina_2020,
    cohen_2025 as cohen_2025,
    exact_solutions as exact_solutions,
    marion_chizat_2024 as marion_chizat_2024,
    mulayoff_michaeli_2020 as mulayoff_michaeli_2020,
    ziyin_li_meng_2022 as ziyin_li_meng_2022,
)
