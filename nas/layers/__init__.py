"""The primitives of the spaces: importing this package fills `nas.layers.base.PRIMITIVES`."""

from nas.layers import (
    activation,
    attention,
    branches,
    composition,
    convolution,
    mlp,
    moe,
    norm,
    repetition,
    resampling,
    scan,
)

__all__ = [
    "activation",
    "attention",
    "branches",
    "composition",
    "convolution",
    "mlp",
    "moe",
    "norm",
    "repetition",
    "resampling",
    "scan",
]
