"""The nonlinear recurrences' benchmark: a layer with its input projection, as cuDNN's has it."""

import importlib.util
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from nas.kernels.family import Candidate, Family, Sizes, Work
from nas.kernels.fused_rnn import reference
from nas.kernels.fused_rnn.operator import GATES, STATES, fused_rnn


def _family(cell: str) -> Family:
    count = GATES[cell]

    def inputs(shape: Sizes, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Tokens, the input matrix (its bias is within `bias`), recurrent matrices and biases."""
        batch, length, heads, width = shape

        def normal(*sizes: int) -> Tensor:
            return torch.randn(sizes, generator=generator)

        return (
            normal(batch, length, heads * width),
            normal(count * heads * width, heads * width) / math.sqrt(heads * width),
            normal(heads, count, width, width) / math.sqrt(width),
            normal(count, heads, width),
        )

    def gates(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.linear(x, weight).unflatten(-1, bias.shape)

    def loop(x: Tensor, weight: Tensor, recurrent: Tensor, bias: Tensor) -> Tensor:
        h, _ = reference.fused_rnn(cell, gates(x, weight, bias), recurrent, bias)
        return h

    def torchs(x: Tensor, weight: Tensor, recurrent: Tensor, bias: Tensor) -> Tensor:
        parameters = weight, recurrent[0].flatten(0, 1), torch.zeros_like(bias).flatten()
        given = (*parameters, bias.flatten()), True, 1, 0.0, True, False, True
        zero = x.new_zeros(1, x.shape[0], recurrent.shape[-1])
        found = torch.gru(x, zero, *given) if cell == "gru" else torch.lstm(x, (zero, zero), *given)
        return found[0].unsqueeze(2)

    def flashrnns(x: Tensor, weight: Tensor, recurrent: Tensor, bias: Tensor) -> Tensor:
        from flashrnn.flashrnn import flashrnn

        states, _ = flashrnn(
            gates(x, weight, bias),
            recurrent.transpose(0, 1),
            bias,
            function=cell,
            backend="triton_fused",
            dtype=str(x.dtype).removeprefix("torch."),
        )
        return states[0]

    def candidates(shape: Sizes, device: torch.device, backend: str | None) -> list[Candidate]:
        def ours(x: Tensor, weight: Tensor, recurrent: Tensor, bias: Tensor) -> Tensor:
            h, _ = fused_rnn(cell, gates(x, weight, bias), recurrent, bias, backend=backend)
            return h

        found = [Candidate("nas", ours), Candidate("loop over unbind(1)", loop)]
        if shape[2] == 1 and cell != "slstm":
            library = "cuDNN" if device.type == "cuda" else "oneDNN or ATen"
            found.append(Candidate(f"torch.nn.{cell.upper()} ({library})", torchs))
        if device.type == "cuda" and cell != "gru" and importlib.util.find_spec("flashrnn"):
            found.append(Candidate("FlashRNN (Triton)", flashrnns))
        return found

    def work(shape: Sizes) -> Work:
        batch, length, heads, width = shape
        tokens = batch * length
        states = tokens * heads * width
        matrices = count * heads * width * width
        projection = count * (heads * width) ** 2
        # Forward: x and the gates' inputs (written, read), h and the other states; backward: these
        # again, the gradient of h, those of the gates (written, read) and of x.
        forward = states * (1 + 2 * count + STATES[cell])
        backward = states * (3 + 3 * count + STATES[cell])
        return Work(
            forward_elements=forward + matrices + projection,
            backward_elements=backward + 2 * (matrices + projection),
            forward_flops=2 * tokens * (matrices + projection),
            backward_flops=4 * tokens * (matrices + projection),
        )

    return Family(
        name=f"fused_rnn/{cell}",
        dimensions="BLHD",
        shapes={
            "cpu": ((8, 256, 4, 32), (8, 256, 1, 64), (32, 256, 1, 128)),
            "cuda": ((16, 1024, 12, 64), (16, 1024, 1, 128), (64, 1024, 8, 128)),
        },
        inputs=inputs,
        reference=loop,
        candidates=candidates,
        work=work,
        tolerance={torch.float32: 1e-4, torch.bfloat16: 1e-2, torch.float16: 5e-3},
        checked=lambda shape: (min(shape[0], 8), *shape[1:]),
    )


FAMILIES = tuple(_family(cell) for cell in GATES)
