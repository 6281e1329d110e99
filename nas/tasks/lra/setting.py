"""How the Long Range Arena is trained on since S4 (Gu et al. 2022), by S5, LRU and Mega, too."""

from nas.tasks.recipe import Recipe
from nas.tasks.setting import Setting


def s4_setting(width: int = 256, rate: float = 1e-2) -> Setting:
    """S4's setting of one sub-task.

    Args:
        width: D.
        rate: Peak learning rate; what sets a recurrence's decays and steps has 1e-3.
    """
    return Setting(
        source="S4 (Gu et al. 2022, revised)",
        backbone="S4's has batch normalisation, ours RMS normalisation",
        depth=6,
        widths=(width,),
        recipe=Recipe(learning_rate=rate, weight_decay=0.05, dynamics=1e-3),
    )
