"""The 95 % interval of a share that was counted."""

import math

NORMAL_QUANTILE = 1.959963984540054
"""97.5 %: 95 % of a normal distribution lie within it on both sides."""


def wilson_interval(hits: int, trials: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of the proportion ``hits / trials``, both ends in 0..1.

    E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference",
    JASA 22 (1927). Raises ``ValueError`` for no trials, or hits outside 0..trials.
    """
    if trials < 1 or not 0 <= hits <= trials:
        raise ValueError(f"hits must lie in 0..trials and trials be 1 or more: {hits}/{trials}")
    z2 = NORMAL_QUANTILE**2
    centre = (hits + z2 / 2) / (trials + z2)
    half = NORMAL_QUANTILE / (trials + z2) * math.sqrt(hits * (trials - hits) / trials + z2 / 4)
    return max(0.0, centre - half), min(1.0, centre + half)
