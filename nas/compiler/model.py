"""A whole model: embedding, the body of an architecture, final norm and head."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.compiler.build import build
from nas.compiler.interface import (
    Features,
    Inputs,
    Outputs,
    Pairs,
    Reconstruction,
    TokenLabels,
    Values,
)
from nas.grammar.derivation import Term
from nas.layers.base import Primitive, Shape
from nas.layers.norm import RMSNorm
from nas.layers.residual import shrink_residual_branches


class SequenceModel(nn.Module):
    """Maps sequences to logits or values: embedding, body, norm, head.

    Args:
        shape: Width D of the body, the length it is built for (it takes others), and whether it
            is causal: no output depends on a later token, and it runs token by token.
        body: Maps `[B, L, D]` to `[B, L, D]`.
        inputs: What goes in: `Tokens` or `Features`; or `Pairs`, two sequences u and v that the
            same body reads one by one, and [u, v, u * v, u - v] of their means is classified (Tay
            et al. 2021, "Long Range Arena", section 2.2.3).
        outputs: What comes out: `Label` or `Values` (from the mean over the sequence), or
            `TokenLabels`, or `Reconstruction` (from the last position).
    """

    dropout: float = 0.0
    """Share of the embedding's output that is zeroed in training."""

    mean: Tensor | None
    """That of `Values`."""

    def __init__(self, shape: Shape, body: Primitive, inputs: Inputs, outputs: Outputs) -> None:
        super().__init__()
        self.inputs = inputs
        self.outputs = outputs
        self.embedding: nn.Module
        if isinstance(inputs, Features):
            self.embedding = nn.Linear(inputs.channels, shape.width)
        else:
            self.embedding = nn.Embedding(inputs.vocabulary, shape.width)
            # Vectors of length 1: with smaller ones, what residual branches add drowns the tokens.
            nn.init.normal_(self.embedding.weight, std=shape.width**-0.5)
        self.body = body
        self.norm = RMSNorm(shape)
        if isinstance(inputs, Pairs):
            if isinstance(outputs, TokenLabels | Reconstruction):
                raise ValueError("two sequences have one answer, not one a position")
            self.join = nn.Sequential(nn.Linear(4 * shape.width, shape.width), nn.GELU())
        self.head = nn.Linear(shape.width, outputs.size)
        nn.init.zeros_(self.head.bias)
        mean = torch.tensor(outputs.mean) if isinstance(outputs, Values) and outputs.mean else None
        self.register_buffer("mean", mean, persistent=False)
        if isinstance(outputs, Reconstruction):
            self.decoder = Decoder(shape)

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits of whole sequences.

        Args:
            inputs: Tokens `[B, L]`, integers, or features `[B, L, channels]`; or pairs `[B, 2, L]`.
            mask: `[B, L]`, or `[B, 2, L]`: True where there is a token, False for padding; None:
                no padding. Padding goes into the body as zeros and not into the mean.

        Returns:
            `[B, classes]` for a label a sequence, `[B, L, classes]` for a label a position
            and for a reconstruction, `[B, numbers]` for values.

        Raises:
            TypeError: Inputs or mask are of another type.
            ValueError: They have another shape, or a token is not in the vocabulary.
        """
        two = isinstance(self.inputs, Pairs)
        self._check(inputs, 3 if two else 2)
        if self.training:
            self.auxiliary_loss()  # forgets what an earlier pass has left
        if mask is not None:
            if mask.dtype != torch.bool:
                raise TypeError(f"the mask must be of torch.bool, not {mask.dtype}")
            if mask.shape != inputs.shape[: 3 if two else 2]:
                expected, given = list(inputs.shape[: 3 if two else 2]), list(mask.shape)
                raise ValueError(f"the mask must have the shape {expected}, not {given}")
        if not two:
            return self._answer(self._read(inputs, mask))
        x = self._read(inputs.flatten(0, 1), None if mask is None else mask.flatten(0, 1))
        u, v = x.unflatten(0, (-1, 2)).unbind(1)
        return self._answer(self.join(torch.cat((u, v, u * v, u - v), dim=-1)))

    def _answer(self, x: Tensor) -> Tensor:
        """What the head says, values in the unit of their targets."""
        found = self.head(x)
        if self.mean is None or not isinstance(self.outputs, Values):
            return found
        # The sum has the mean's precision, float32, where autocast computes the head with less.
        return self.mean + self.outputs.deviation * found

    def _read(self, inputs: Tensor, mask: Tensor | None) -> Tensor:
        """For the head: vectors `[B, L, D]`, or means `[B, D]` where a sequence has one answer."""
        x = self.embedding(inputs)
        if self.training and self.dropout > 0:
            x = F.dropout(x, self.dropout)
        if mask is not None:
            x = x * mask.unsqueeze(-1).to(x.dtype)
        x = self.norm(self.body(x))
        if isinstance(self.outputs, Reconstruction):
            last = x[:, -1]
            if mask is not None:
                last = x[torch.arange(len(x), device=x.device), mask.sum(1) - 1]
            return self.decoder(last, x.shape[1])
        if isinstance(self.outputs, TokenLabels):
            return x
        if mask is None:
            return x.mean(1)
        weight = mask.unsqueeze(-1).to(x.dtype)
        return (x * weight).sum(1) / weight.sum(1).clamp(min=1)

    def init_state(self, batch: int) -> Any:
        """The state before the first token of `batch` streams.

        Raises:
            RuntimeError: The model is not causal, or compares two sequences.
        """
        if isinstance(self.inputs, Pairs):
            raise RuntimeError("two sequences that are compared are not one stream")
        weight = self.head.weight
        state = self.body.init_state(batch, weight.device, weight.dtype)
        return state, weight.new_zeros(batch, weight.shape[1]), weight.new_zeros(())

    def step(self, inputs: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Logits after one more token: those that `forward` gives for the sequence so far.

        Args:
            inputs: Tokens `[B]`, integers, or features `[B, channels]`.
            state: What `init_state` or the step before returned; it is not changed.

        Returns:
            Logits `[B, classes]` (of a label a sequence: from the mean so far; of a reconstruction:
            `[B, tokens so far, classes]`), and the state for the next token.

        Raises:
            RuntimeError: The model is not causal.
            TypeError: Inputs are of another type.
            ValueError: They have another shape, or a token is not in the vocabulary.
        """
        self._check(inputs, 1)
        body_state, total, count = state
        x, body_state = self.body.step(self.embedding(inputs), body_state)
        x = self.norm(x)
        if isinstance(self.outputs, Reconstruction):
            count = count + 1
            return self.head(self.decoder(x, int(count))), (body_state, total, count)
        if not isinstance(self.outputs, TokenLabels):
            total, count = total + x, count + 1
            x = total / count
        return self._answer(x), (body_state, total, count)

    def auxiliary_loss(self) -> Tensor:
        """What layers ask for beside the task, summed over them: that experts are equally loaded.

        Call it once after a forward pass in training mode; it forgets what it returns.

        Returns:
            A number, differentiable; 0 where no layer asks for anything.
        """
        losses = []
        for module in self.body.modules():
            if isinstance(module, Primitive):
                losses.append(module.take_auxiliary_loss())
        asked = [loss for loss in losses if loss is not None]
        return torch.stack(asked).sum() if asked else self.head.weight.new_zeros(())

    def _check(self, inputs: Tensor, dimensions: int) -> None:
        """Raises what `forward` and `step` promise; `dimensions`: of an input of tokens."""
        layout, given = ("[B]", "[B, L]", "[B, 2, L]")[dimensions - 1], list(inputs.shape)
        if isinstance(self.inputs, Features):
            layout = layout.replace("]", f", {self.inputs.channels}]")
            if not inputs.is_floating_point():
                raise TypeError(f"inputs must be features {layout}, reals, not {inputs.dtype}")
            if inputs.dim() != dimensions + 1 or inputs.shape[-1] != self.inputs.channels:
                raise ValueError(f"inputs must be features {layout}, not of the shape {given}")
        else:
            if inputs.is_floating_point() or inputs.is_complex() or inputs.dtype == torch.bool:
                raise TypeError(f"inputs must be tokens {layout}, integers, not {inputs.dtype}")
            if inputs.dim() != dimensions or (dimensions == 3 and inputs.shape[1] != 2):
                raise ValueError(f"inputs must be tokens {layout}, not of the shape {given}")
            if inputs.numel() and not inputs.is_meta:
                last = self.inputs.vocabulary - 1
                low, high = (int(value) for value in inputs.aminmax())
                if low < 0 or high > last:
                    wrong = low if low < 0 else high
                    raise ValueError(f"token {wrong} is not in the vocabulary, 0 .. {last}")
        if dimensions > 1 and inputs.shape[dimensions - 1] == 0:
            raise ValueError("a sequence needs at least one token; these have the length 0")


class Decoder(nn.Module):
    """What a vector says of each position of its sequence, by a network that sees nothing else.

    The decoder of MAD's autoencoder (Poli et al. 2024): the position, as sines and cosines, is
    added to the vector; two layers of the same width follow.

    Args:
        shape: Width D of the vectors.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.width
        self.layers = nn.Sequential(
            RMSNorm(shape), nn.Linear(width, width), nn.GELU(),
            RMSNorm(shape), nn.Linear(width, width), nn.GELU(),
            RMSNorm(shape),
        )  # fmt: skip

    def forward(self, vectors: Tensor, length: int) -> Tensor:
        """Vectors `[B, D]` to vectors of `length` positions, `[B, L, D]`."""
        width = vectors.shape[-1]
        half = torch.arange((width + 1) // 2, device=vectors.device, dtype=torch.float32)
        rates = 10_000.0 ** (-2 * half / width)
        angles = torch.arange(length, device=vectors.device)[:, None] * rates
        waves = torch.cat([angles.sin(), angles.cos()], 1)[:, :width].to(vectors.dtype)
        return self.layers(vectors[:, None] + waves)


class Model(SequenceModel):
    """The model of an architecture for a task.

    Args:
        term: The architecture.
        width: D.
        inputs: What goes in.
        outputs: What comes out.
        length: Number of tokens L that it is built for; it takes others.
        causal: Whether no output may depend on a later token.

    Raises:
        UsageError: A term names no layer.
        ValueError: A layer's parameters do not fit its shape.
    """

    def __init__(
        self,
        term: Term,
        width: int,
        inputs: Inputs,
        outputs: Outputs,
        length: int,
        causal: bool,
    ) -> None:
        shape = Shape(length, width, causal)
        body = build(term, shape)
        shrink_residual_branches(body)
        super().__init__(shape, body, inputs, outputs)
        self.term = term
        self.shape = shape
