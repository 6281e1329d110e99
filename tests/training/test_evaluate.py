import math

import numpy as np
import pytest
import torch

from nas.compiler.interface import Features, Label, TokenLabels, Tokens, Values
from nas.compiler.model import Model
from nas.grammar.derivation import Term
from nas.tasks.base import Split, Task
from nas.tasks.metrics import BITS, SQUARED_ERROR
from nas.tasks.recipe import Recipe
from nas.training.evaluate import evaluate
from nas.training.train import train

NET = Term("net", (Term("mlp", (Term("expansion", ("2",)), Term("activation", ("gelu",)))),))


def task(split, inputs, outputs, length, **more):
    return Task(
        name="mine", profile="small", summary="", definition="", length=length, causal=True,
        inputs=inputs, outputs=outputs, batch_size=4, steps=300,
        source=lambda: {"train": split, "validation": split, "test": split},
        decode=lambda x, y: "", **more,
    )  # fmt: skip


@pytest.fixture
def positions():
    """Ten sequences of 40 tokens, a third of them asked, with other answers that are right, too."""
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 5, size=(10, 40))
    targets = rng.integers(0, 4, size=(10, 40))
    targets[rng.random((10, 40)) < 0.6] = -100
    accepted = rng.integers(0, 16, size=(10, 40)) | (1 << targets.clip(0))
    return inputs, targets, accepted


def logits_of(model, inputs):
    with torch.no_grad():
        return model.eval()(torch.from_numpy(inputs)).tolist()


def test_by_position_and_by_difficulty_agree_with_counting(positions):
    inputs, targets, accepted = positions
    of = task(
        Split(inputs, targets, accepted=accepted), Tokens(5), TokenLabels(4), 40,
        difficulty=lambda split: split.inputs[:, 0],
    )  # fmt: skip
    model = Model(NET, 8, of.inputs, of.outputs, 40, True)
    logits = logits_of(model, inputs)
    answers = {}
    for i in range(10):
        for t in range(40):
            if targets[i][t] != -100:
                best = max(range(4), key=lambda c: logits[i][t][c])
                answers[i, t] = bool(accepted[i][t] >> best & 1)
    found = evaluate(model, of, "test")
    assert found.asked == len(answers)
    assert found.value == pytest.approx(sum(answers.values()) / len(answers), abs=1e-12)
    for start in range(0, 40, 3):  # 40 positions in at most 16 stretches: 3 in each
        here = [right for (_, t), right in answers.items() if start <= t < start + 3]
        assert found.positions[start] == pytest.approx(sum(here) / len(here), abs=1e-12)
    for level in range(5):
        here = [right for (i, _), right in answers.items() if inputs[i][0] == level]
        if here:
            assert found.difficulty[level] == pytest.approx(sum(here) / len(here), abs=1e-12)


def test_bits_are_those_of_the_probabilities(positions):
    inputs, targets, _ = positions
    of = task(Split(inputs, targets), Tokens(5), TokenLabels(4), 40, metric=BITS)
    model = Model(NET, 8, of.inputs, of.outputs, 40, True)
    logits = logits_of(model, inputs)
    bits = []
    for i in range(10):
        for t in range(40):
            if targets[i][t] != -100:
                total = sum(math.exp(logit) for logit in logits[i][t])
                bits.append(-math.log2(math.exp(logits[i][t][targets[i][t]]) / total))
    found = evaluate(model, of, "validation")
    assert found.value == pytest.approx(sum(bits) / len(bits), rel=1e-5)
    assert of.metric.score(found.value) == -found.value


def test_real_values_are_learned_from_real_values():
    """The mean of a sequence's numbers: a linear map of what the model means over."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(64, 6, 2)).astype(np.float32)
    split = Split(inputs, inputs.mean(1))
    of = task(split, Features(2), Values(2), 6, metric=SQUARED_ERROR)
    result = train(NET, of, Recipe(learning_rate=1e-2), width=16, seed=0)
    assert result.status == "complete"
    assert result.score == -result.evaluations["validation"][0].value
    assert result.evaluations["validation"][0].asked == 64
    assert 0 < result.evaluations["validation"][0].value < 0.2 * float(inputs.mean(1).var())


def test_one_answer_a_sequence_has_no_positions():
    inputs = np.zeros((8, 3), dtype=np.int64)
    of = task(Split(inputs, np.zeros(8, dtype=np.int64)), Tokens(2), Label(2), 3)
    model = Model(NET, 8, of.inputs, of.outputs, 3, True)
    found = evaluate(model, of, "test")
    assert (found.positions, found.difficulty, found.asked) == ({}, {}, 8)
