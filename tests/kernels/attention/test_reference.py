"""The reference: attention one query, one head and one key after the other."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from nas.kernels.attention import reference
from nas.kernels.attention.pattern import (
    Causal,
    Chunk,
    Dilated,
    Fixed,
    Full,
    Landmark,
    Prefix,
    Window,
)
from tests.kernels.attention.cases import CASES, PATTERNS, make


def sees(name: str, i: int, j: int, b: int) -> bool:
    """What PATTERNS let the query at i see, said once more in other words."""
    pattern = PATTERNS[name]
    if isinstance(pattern, Full):
        return True
    if isinstance(pattern, Window):
        half = pattern.width // 2
        return j in (range(i - pattern.width + 1, i + 1) if pattern.causal
                     else range(i - half, i + half + 1))  # fmt: skip
    if isinstance(pattern, Dilated):
        taps, stride = pattern.taps or 10**6, pattern.stride
        low, high = (-(taps - 1), 0) if pattern.causal else (-(taps // 2), taps // 2)
        return j in range(i + low * stride, i + high * stride + 1, stride)
    if isinstance(pattern, Prefix):
        length = pattern.length if isinstance(pattern.length, int) else pattern.length[b].item()
        return j < length or j <= i
    if isinstance(pattern, Chunk):
        first = math.floor(i / pattern.size) * pattern.size
        return j in range(first, first + pattern.size if not pattern.causal else i + 1)
    if j > i:
        return False
    if isinstance(pattern, Fixed):
        last = (j + 1) % pattern.stride or pattern.stride
        same = math.floor(i / pattern.stride) == math.floor(j / pattern.stride)
        return same or last > pattern.stride - pattern.summary
    if isinstance(pattern, Landmark):
        end = (j // pattern.block + 1) * pattern.block
        return not (j == end - 1 and i < end)
    return True


@pytest.mark.parametrize(("length", "keys"), [(19, 19), (5, 24), (24, 15)])
@pytest.mark.parametrize(("name", "score"), CASES)
def test_the_reference_is_the_definition(name, score, length, keys) -> None:
    x, _, extra = make(length, keys=keys, score=score, slopes=True, dtype=torch.float64)
    o = reference.attention(**x, **extra, score=score, pattern=PATTERNS[name], scale=0.7)
    slopes, bias = extra["slopes"].tolist(), x.get("bias", torch.zeros(4)).tolist()
    for b, r, h in itertools.product(range(2), range(length), (0, 3)):
        i, q = r + keys - length, x["q"][b, r, h]
        seen = [j for j in range(keys) if sees(name, i, j, b)]
        k, v = x["k"][b, seen, h // 2], x["v"][b, seen, h // 2]
        near = zip(seen, (0.7 * k @ q).tolist(), strict=True)
        logits = {j: s - slopes[h] * abs(i - j) for j, s in near}
        if score == "sigmoid":
            weights = [1 / (1 + math.exp(-s - bias[h])) for s in logits.values()]
        elif "landmark" in name:
            weights = grouped(logits, i, PATTERNS[name].block)
        else:
            total = sum(math.exp(s) for s in logits.values())
            weights = [math.exp(s) / total for s in logits.values()]
        row = torch.tensor(weights, dtype=torch.float64) @ v
        torch.testing.assert_close(o[b, r, h], row, rtol=1e-10, atol=1e-12)


def grouped(logits, i, block):
    """The weights of landmark attention, for one query and one key after the other."""
    powers = {j: math.exp(s) for j, s in logits.items()}
    own = i // block * block
    total = sum(power for j, power in powers.items() if j >= own or j % block == block - 1)
    weights = []
    for j, power in powers.items():
        start = j // block * block
        if start == own:
            weights.append(power / total)
        elif j == start + block - 1:
            weights.append(0.0)
        else:
            inside = sum(powers[t] for t in range(start, start + block - 1))
            weights.append(powers[start + block - 1] / total * power / inside)
    return weights


def test_the_reference_is_torch_attention_under_the_same_mask() -> None:
    x, _, _ = make(40, heads=2, dtype=torch.float64)
    i, j = torch.arange(40)[:, None], torch.arange(40)
    for pattern in (Full(), Causal(), Window(6), Window(6, False), Chunk(8), Fixed(8)):
        mask = pattern.visible(i, j)
        q, k, v = (y.transpose(1, 2) for y in x.values())
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)
        found = reference.attention(**x, pattern=pattern)
        torch.testing.assert_close(found, o, rtol=1e-10, atol=1e-12)


def test_landmark_weights_sum_to_one_and_no_landmark_gives_its_value() -> None:
    x, _, _ = make(23, dtype=torch.float64)
    x["v"] = torch.ones_like(x["v"])
    o = reference.attention(**x, pattern=Landmark(4))
    torch.testing.assert_close(o, torch.ones_like(o))
    x["v"][:, 3::4] = 1e6
    torch.testing.assert_close(reference.attention(**x, pattern=Landmark(4)), o)
