"""What papers predict, one file a paper: closed forms, no simulation.

`exact_dynamics` gathers flows that are known exactly, from several papers, as checks of
`gradient_flow`. The other files hold what `baldassi_pittorino_zecchina_2020` is computed
with.
"""

from . import (
    baldassi_pittorino_zecchina_2020 as baldassi_pittorino_zecchina_2020,
    exact_dynamics as exact_dynamics,
    marion_chizat_2024 as marion_chizat_2024,
    mulayoff_michaeli_2020 as mulayoff_michaeli_2020,
    ziyin_li_meng_2022 as ziyin_li_meng_2022,
)
