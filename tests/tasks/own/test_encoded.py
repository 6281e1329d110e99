"""Real targets: what is told is in their own unit, and no unit is learned worse than another."""

import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import torch

from nas.compiler.interface import Values
from nas.compiler.model import Model
from nas.export.export import export_model
from nas.grammar.space import Space
from nas.resources import find_space
from nas.tasks.metrics import SQUARED_ERROR
from nas.tasks.recipe import Recipe
from nas.tasks.registry import load_task
from nas.training.train import train

TEXT = "net(seq(conv(depthwise, 4, 1, causal), res(mlp(2, gelu))))"
ROWS = 400


@pytest.fixture(autouse=True)
def _fresh(fresh_cache):
    """Nothing is kept from other tests."""


def data():
    """Inputs, and numbers that can be learned from them."""
    x = np.random.default_rng(0).normal(size=(ROWS, 5, 2)).astype(np.float32)
    return x, np.stack([x[:, :, 0].sum(1), 0.5 * x[:, :, 1].sum(1)], 1).astype(np.float32)


def one(folder, y, **knobs):
    np.savez(folder / "y.npz", inputs=data()[0], targets=y)
    settings = ",".join(f"{key}={value}" for key, value in {"steps": 60, **knobs}.items())
    (task,) = load_task(f"y.npz[{settings}]", "small", folder).tasks
    return task


@cache
def derivation(causal):
    context = {"L": (5,), "D": 16, "causal": causal}
    return Space.load(find_space("hybrid.lark"), context=context).parse(TEXT)


def trained(task):
    result = train(derivation(task.causal).term, task, Recipe(learning_rate=1e-2), width=16, seed=0)
    assert result.error is None
    return result.evaluations["validation"][0].value


def test_the_error_of_the_mean_and_the_examples_are_in_the_unit_of_the_file(tmp_path):
    _, y = data()
    y = 300 * y + 10_000
    task = one(tmp_path, y)
    assert task.metric is SQUARED_ERROR
    training, validation = (task.splits[name].targets for name in ("train", "validation"))
    known = np.sort(np.concatenate([task.splits[name].targets for name in task.splits])[:, 0])
    assert np.array_equal(known, np.sort(y[:, 0]))
    errors = [(row - training.astype(float).mean(0)) ** 2 for row in validation.astype(float)]
    assert task.baselines == {"mean": pytest.approx(np.mean(errors))}
    outputs = task.outputs
    assert outputs.numbers == 2
    assert outputs.mean == pytest.approx(training.astype(float).mean(0))
    assert outputs.deviation == pytest.approx(training.astype(float).var(0).mean() ** 0.5)
    assert "2 real numbers a row" in task.summary
    assert f"in deviations of {outputs.deviation:.4g} from their mean" in task.definition
    shown = task.decode(task.splits["train"].inputs[0], training[0]).splitlines()[-1]
    assert [float(word) for word in shown[2:].split()] == pytest.approx(training[0], rel=1e-5)


def test_no_unit_is_learned_worse_than_another(tmp_path):
    _, y = data()
    plain = one(tmp_path, y)
    error = trained(plain)
    assert error < plain.baselines["mean"] / 4
    # A power of two changes no digit: the very same training, in another unit.
    assert trained(one(tmp_path, 1024 * y)) == 1024**2 * error
    assert trained(one(tmp_path, y / 64)) == error / 64**2
    moved = one(tmp_path, y + np.float32(10_000))
    assert trained(moved) == pytest.approx(error, rel=0.05)
    assert moved.baselines["mean"] == pytest.approx(plain.baselines["mean"], rel=1e-3)


def test_more_numbers_a_row_than_positions_and_rows_that_are_cut(tmp_path):
    _, y = data()
    wide = np.tile(y, 4)
    task = one(tmp_path, wide, longest=3)
    assert task.length == 3
    assert task.outputs.numbers == 8
    assert {split.targets.shape[1] for split in task.splits.values()} == {8}
    assert task.train_batch(0, 0).targets.dtype == torch.float32


def test_targets_that_are_all_the_same_are_no_error(tmp_path):
    task = one(tmp_path, np.full(ROWS, 0.1))
    assert task.outputs.deviation == 1.0
    assert task.baselines["mean"] == pytest.approx(0, abs=1e-15)
    assert trained(task) < 1e-2


def test_an_exported_model_answers_in_the_unit_of_the_file(tmp_path):
    _, y = data()
    task = one(tmp_path, 300 * y + 10_000, causal=1)
    parsed = derivation(task.causal)
    torch.manual_seed(0)
    model = Model(parsed.term, 16, task.inputs, task.outputs, task.length, True).eval()
    export_model(model, parsed, tmp_path / "exported")
    x = torch.from_numpy(data()[0][:7])
    torch.save(x, tmp_path / "x.pt")
    script = (
        "import sys, torch\nsys.path.insert(0, 'exported')\nfrom model import load\n"
        "x = torch.load('x.pt')\ntorch.save(load().eval()(x), 'y.pt')\n"
    )
    command = [sys.executable, "-I", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "y.pt")
    assert torch.equal(found, model(x))
    assert (found - 10_000).abs().max() < 3_000
    state = model.init_state(7)
    for token in x.unbind(1):
        streamed, state = model.step(token, state)
    assert torch.allclose(streamed, found, rtol=1e-6)
    assert isinstance(model.outputs, Values)
