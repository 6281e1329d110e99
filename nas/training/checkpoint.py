"""Checkpoints that are either complete or not there, and are never unpickled.

A checkpoint is a folder `step-00000120` with `state.safetensors` (parameters, buffers, AdamW's
moments) and `checkpoint.json` (the step, the loss curve, the SHA-256 of the other file). It is
written under another name, flushed to disk and renamed, so a process killed at any moment leaves
either the whole checkpoint or a temporary folder that is ignored.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from nas.errors import NasError

_STATE = "state.safetensors"
_INDEX = "checkpoint.json"


class DamagedCheckpointError(NasError):
    """A checkpoint cannot be read; the message names it and says what to do."""


@dataclass(frozen=True)
class Progress:
    """How far a training run has come.

    Args:
        step: Steps done.
        losses: `(step, mean training loss since the point before)`.
        recent: Losses of the steps since the last point.
    """

    step: int = 0
    losses: list[tuple[int, float]] = field(default_factory=list)
    recent: list[float] = field(default_factory=list)


def save_checkpoint(
    folder: Path, progress: Progress, model: nn.Module, optimizer: torch.optim.Optimizer
) -> Path:
    """Write a checkpoint and remove the older ones of the same folder.

    Args:
        folder: Where the run's checkpoints stand; made when missing.
        progress: Steps done and losses so far.
        model: The model; all of its state is kept.
        optimizer: The optimizer; its state is kept by parameter name.

    Returns:
        The checkpoint's folder.

    Raises:
        OSError: The disk is full or the folder cannot be written; older checkpoints are intact.
    """
    tensors = {f"model.{k}": v.detach().contiguous().cpu() for k, v in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(value).detach().contiguous().cpu()
    data = save_tensors({k: v.clone() for k, v in tensors.items()})
    index = {
        "step": progress.step,
        "losses": progress.losses,
        "recent": progress.recent,
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{progress.step:08d}"
    temporary = folder / f".{final.name}-{os.getpid()}"
    try:
        temporary.mkdir(exist_ok=True)
        _write(temporary / _STATE, data)
        _write(temporary / _INDEX, json.dumps(index).encode())
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _flush(folder)
    for older in _complete(folder):
        if older != final:
            shutil.rmtree(older, ignore_errors=True)
    return final


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of a folder with the most steps done, or None."""
    return max(_complete(folder), default=None, key=lambda path: path.name)


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> Progress:
    """Set a model (and its optimizer) to the state of a checkpoint.

    Raises:
        DamagedCheckpointError: It is incomplete, its checksum is wrong, or it is of another model.
    """
    try:
        index = json.loads((path / _INDEX).read_text())
        data = (path / _STATE).read_bytes()
        if hashlib.sha256(data).hexdigest() != index["sha256"]:
            raise DamagedCheckpointError(
                f"{path}: damaged checkpoint (its checksum is wrong); remove that folder to train "
                "again from the one before or from the start"
            )
        tensors = load_tensors(data)
        progress = Progress(
            int(index["step"]),
            [(int(step), float(loss)) for step, loss in index["losses"]],
            [float(loss) for loss in index["recent"]],
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DamagedCheckpointError(
            f"{path}: damaged checkpoint ({error}); remove that folder to train again from the "
            "one before or from the start"
        ) from error
    state = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise DamagedCheckpointError(f"{path}: a checkpoint of another architecture") from error
    if optimizer is not None:
        _load_optimizer(tensors, model, optimizer)
    return progress


def _load_optimizer(
    tensors: dict[str, torch.Tensor], model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    for name, parameter in model.named_parameters():
        state = {
            key: tensors[f"optimizer.{key}.{name}"]
            for key in ("step", "exp_avg", "exp_avg_sq")
            if f"optimizer.{key}.{name}" in tensors
        }
        if state:
            # Moments live beside their parameter; fused AdamW wants its step there too.
            optimizer.state[parameter] = {k: v.to(parameter.device) for k, v in state.items()}


def _complete(folder: Path) -> list[Path]:
    return [path for path in folder.glob("step-*") if (path / _INDEX).is_file()]


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _flush(folder: Path) -> None:
    """Make a rename in a folder durable (POSIX: the directory is a file of its own)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
