import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from nas.compiler.interface import Label, TokenLabels, Tokens
from nas.compiler.model import Model
from nas.grammar.derivation import Term
from nas.tasks.base import Split, Task
from nas.tasks.recipe import Recipe
from nas.training.checkpoint import DamagedCheckpointError, latest_checkpoint
from nas.training.evaluate import evaluate
from nas.training.train import train

WIDTH = 16
NET = Term(
    "net",
    (Term("res", (Term("mlp", (Term("expansion", ("2",)), Term("activation", ("gelu",)))),)),),
)
RECIPE = Recipe(learning_rate=3e-2)


def make_split(seed: int, size: int) -> Split:
    """Is token 1 more frequent than token 2? A mean over tokens answers it."""
    rng = np.random.default_rng(seed)
    inputs = rng.integers(1, 3, size=(size, 9)).astype(np.int16)
    return Split(inputs, (inputs == 1).sum(1) > 4)


@pytest.fixture
def task() -> Task:
    splits = {
        "train": make_split(0, 256),
        "validation": make_split(1, 100),
        "test": make_split(2, 100),
    }
    return Task(
        name="frequent",
        profile="small",
        summary="",
        definition="",
        length=9,
        causal=False,
        inputs=Tokens(3),
        outputs=Label(2),
        batch_size=32,
        steps=60,
        source=lambda: splits,
        decode=lambda x, y: "",
    )


def run(task: Task, **options: object):
    return train(NET, task, RECIPE, width=WIDTH, seed=3, **options)


def test_it_learns_what_can_be_learnt(task):
    result = run(task)
    assert result.status == "complete"
    assert result.step == 60
    assert result.score > 0.95
    assert result.losses[-1][1] < 0.3 < result.losses[0][1]


def test_continued_from_a_checkpoint_it_computes_the_same(task, tmp_path):
    whole = run(task, checkpoints=tmp_path / "whole")
    losses = []
    for until in (1, 17, 41, 60):
        part = run(
            task,
            until_step=until,
            checkpoints=tmp_path / "parts",
            resume=latest_checkpoint(tmp_path / "parts"),
            on_step=lambda step, loss: losses.append((step, loss)),
        )
    seen = []
    run(task, on_step=lambda step, loss: seen.append((step, loss)))
    assert losses == seen
    assert part.score == whole.score
    assert part.losses == whole.losses
    first = (latest_checkpoint(tmp_path / "whole") / "state.safetensors").read_bytes()
    second = (latest_checkpoint(tmp_path / "parts") / "state.safetensors").read_bytes()
    assert first == second


def test_a_stopped_run_leaves_a_checkpoint(task, tmp_path):
    steps = []
    result = run(
        task,
        checkpoints=tmp_path,
        on_step=lambda step, loss: steps.append(step),
        should_stop=lambda: len(steps) == 7,
    )
    assert (result.status, result.score, result.step) == ("stopped", None, 7)
    assert latest_checkpoint(tmp_path).name == "step-00000007"


def test_a_loss_that_is_not_finite_is_a_result(task):
    result = train(
        NET, task, Recipe(learning_rate=1e38, clip=1e38, warmup=0.0), width=WIDTH, seed=0
    )
    assert result.status == "failed"
    assert "non-finite" in result.error
    assert result.score is None


def test_running_out_of_memory_is_a_result(task):
    # More than any machine has, asked of the real allocator.
    huge = replace(task, inputs=Tokens(10**12))
    result = run(huge)
    assert (result.status, result.error) == ("failed", "out of memory")


def test_the_generator_of_the_caller_is_left_alone(task):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(task, until_step=2)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "garbage"])
def test_a_damaged_checkpoint_is_refused_by_name(task, tmp_path, damage):
    run(task, until_step=5, checkpoints=tmp_path)
    path = latest_checkpoint(tmp_path)
    state = path / "state.safetensors"
    data = bytearray(state.read_bytes())
    if damage == "truncated":
        state.write_bytes(data[:-10])
    elif damage == "flipped":
        data[-5] ^= 1
        state.write_bytes(data)
    elif damage == "missing":
        state.unlink()
    else:
        (path / "checkpoint.json").write_text("[]")
    with pytest.raises(DamagedCheckpointError, match="damaged checkpoint") as error:
        run(task, resume=path)
    assert str(path) in str(error.value)


def test_a_checkpoint_of_another_architecture_is_refused(task, tmp_path):
    run(task, until_step=1, checkpoints=tmp_path)
    with pytest.raises(DamagedCheckpointError, match="another architecture"):
        train(NET, task, RECIPE, width=32, seed=0, resume=latest_checkpoint(tmp_path))


def test_accuracy_counts_labelled_positions_only():
    # The oracle: count by hand over the model's own logits, position by position.
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 5, size=(11, 6))
    targets = rng.integers(0, 4, size=(11, 6))
    targets[rng.random((11, 6)) < 0.6] = -100
    split = Split(inputs, targets)
    task = Task(
        name="positions", profile="small", summary="", definition="", length=6, causal=True,
        inputs=Tokens(5), outputs=TokenLabels(4), batch_size=4, steps=1,
        source=lambda: {"train": split, "validation": split, "test": split},
        decode=lambda x, y: "",
    )  # fmt: skip
    model = Model(NET, WIDTH, task.inputs, task.outputs, 6, True)
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(inputs)).tolist()
    right = total = 0
    for i in range(11):
        for t in range(6):
            if targets[i][t] != -100:
                total += 1
                right += max(range(4), key=lambda c: logits[i][t][c]) == targets[i][t]
    found = evaluate(model, task, "validation")
    assert (found.value, found.asked) == (right / total, total)


def test_the_rate_warms_up_and_decays_over_the_full_budget():
    recipe = Recipe(learning_rate=1.0, warmup=0.1)
    rates = [recipe.rate(step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10] == 1.0
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert rates[55] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.5)))
    assert rates[-1] < 1e-3
