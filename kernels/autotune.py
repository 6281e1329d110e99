"""Choosing among a kernel's launch configurations, in one place."""

from collections.abc import Callable, Sequence
from typing import Any

import triton

from nas.kernels.dispatch import interpreting


def autotune(
    configs: Sequence[triton.Config], key: Sequence[str]
) -> Callable[[triton.JITFunction[Any]], Any]:
    """Decorate a kernel that is to be timed in several configurations and run in the best.

    Args:
        configs: the configurations; the first must be one that always works.
        key: names of the kernel's arguments whose change calls for a new choice. (A change of the
            tensors' types does so by itself.)

    Returns:
        A decorator for a kernel. In Triton's interpreter, where nothing is worth timing and more
        than one configuration fails, the kernel has the first one only.
    """
    kept = list(configs)[:1] if interpreting() else list(configs)
    return triton.autotune(configs=kept, key=list(key))
