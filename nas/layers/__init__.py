"""The primitives of the spaces: importing this package fills `nas.layers.base.PRIMITIVES`."""

from nas.layers import (
    activation,
    attention,
    branches,
    composition,
    convolution,
    matrix_state,
    mlp,
    moe,
    norm,
    repetition,
    resampling,
    residual,
    scan,
    ssm,
    ssm_diagonal,
)
from nas.layers.base import PRIMITIVES

__all__ = [
    "PRIMITIVES",
    "activation",
    "attention",
    "branches",
    "composition",
    "convolution",
    "matrix_state",
    "mlp",
    "moe",
    "norm",
    "repetition",
    "resampling",
    "residual",
    "scan",
    "ssm",
    "ssm_diagonal",
]
