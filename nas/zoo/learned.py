"""What counts as learned and as solved, of any metric: the one place where it is said.

A task is learned by what is clearly better than every trivial rule:

- where more is better (accuracy): by more than 0.1;
- bits per token: by more than half a bit, as there is no telling how few bits there could be;
- other errors: less than half of the best trivial rule's.

It is solved, and no longer training is tried, from 0.95 on where more is better, and where an error
is at most a twentieth of the best trivial rule's.
"""

from nas.tasks.metrics import BITS

SOLVED = 0.95
MARGIN = 0.1
BITS_MARGIN = 0.5
LEARNED_SHARE = 0.5
SOLVED_SHARE = 0.05


def is_learned(metric: str, higher: bool, value: float, trivial: float) -> bool:
    """Whether a value is clearly better than every trivial rule.

    Args:
        metric: Its name.
        higher: Whether more is better.
        value: What was reached.
        trivial: What the best trivial rule reaches.
    """
    if higher:
        return value > trivial + MARGIN
    if metric == BITS.name:
        return value < trivial - BITS_MARGIN
    return value < LEARNED_SHARE * trivial


def is_solved(higher: bool, value: float, trivial: float) -> bool:
    """Whether longer training is not worth its time; arguments as of `is_learned`."""
    return value >= SOLVED if higher else value <= SOLVED_SHARE * trivial
