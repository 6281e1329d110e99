"""One token at a time: the sequence's outputs, and the last query's gradients."""

import pytest
import torch

from nas.kernels.attention.operator import attention, attention_step
from nas.kernels.attention.pattern import Window
from tests.kernels import harness
from tests.kernels.attention.cases import (
    CASES,
    NOT_CAUSAL,
    PATTERNS,
    TOLERANCE,
    expected,
    make,
    results,
)
from tests.kernels.harness import relative_error


@pytest.mark.parametrize(("name", "score"), [case for case in CASES if case[0] not in NOT_CAUSAL])
def test_steps_are_the_sequence_and_no_later_token_changes_it(name, score) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        x, _, extra = make(90, score=score, slopes=True, dtype=dtype)
        keywords = {"score": score, "pattern": PATTERNS[name]} | extra
        keywords |= {"bias": x.pop("bias")} if score == "sigmoid" else {}
        o = attention(**x, **keywords)
        for t in range(0, 90, 9 if dtype == torch.float32 else 44):
            k, v = x["k"][:, : t + 1], x["v"][:, : t + 1]
            step = attention_step(x["q"][:, t], k, v, **keywords)
            assert step.dtype == dtype
            assert relative_error(step, o[:, t]) < TOLERANCE[dtype]
        start = attention(**{n: y[:, :40] for n, y in x.items()}, **keywords)
        assert relative_error(start, o[:, :40]) < TOLERANCE[dtype]


@pytest.mark.parametrize(("name", "score"), CASES)
def test_steps_have_the_gradients_of_the_last_query(name, score) -> None:
    arguments, grads, extra = make(1, keys=40, score=score, slopes=True)
    keywords = {"score": score, "pattern": PATTERNS[name]} | extra

    def step(q, k, v, **others):
        return attention_step(q[:, 0], k, v, **others).unsqueeze(1)

    out = results(step, arguments, grads, **keywords)
    harness.check(out, expected(arguments, grads, **keywords), TOLERANCE[torch.float32])


def test_a_window_needs_no_more_keys_than_it_sees() -> None:
    x, _, _ = make(40)
    o = attention(**x, pattern=Window(7))
    step = attention_step(x["q"][:, -1], x["k"][:, -7:], x["v"][:, -7:], pattern=Window(7))
    assert relative_error(step, o[:, -1]) < 1e-6
