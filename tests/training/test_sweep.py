import math
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from nas.compiler.interface import Label, Tokens
from nas.compiler.model import Model
from nas.errors import NasError
from nas.grammar.derivation import Term
from nas.grammar.space import Space
from nas.resources import find_architecture, find_space
from nas.tasks.base import Split, Task
from nas.tasks.recipe import Recipe
from nas.tasks.setting import Setting
from nas.training.checkpoint import latest_checkpoint
from nas.training.sweep import Trained, chosen, sweep
from nas.training.train import TrainResult, _optimizer, train

NET = Term(
    "net",
    (Term("res", (Term("mlp", (Term("expansion", ("2",)), Term("activation", ("gelu",)))),)),),
)


def make_split(seed: int, size: int) -> Split:
    """Is the sum of nine dice above its mean?"""
    inputs = np.random.default_rng(seed).integers(1, 7, size=(size, 9)).astype(np.int16)
    return Split(inputs, inputs.sum(1) > 31)


@pytest.fixture
def task() -> Task:
    sizes = {"train": 256, "validation": 100, "test": 70}
    splits = {name: make_split(seed, size) for seed, (name, size) in enumerate(sizes.items())}
    return Task(
        name="of/dice", profile="small", summary="", definition="", length=9, causal=False,
        inputs=Tokens(7), outputs=Label(2), batch_size=32, steps=60, source=lambda: splits,
        decode=lambda x, y: "",
    )  # fmt: skip


@contextmanager
def unwatched(name, steps):
    yield lambda step, loss: None


def run(task, rates, seeds=(0,), **options):
    recipes = [Recipe(learning_rate=rate) for rate in rates]
    return list(
        sweep(NET, task, width=8, recipes=recipes, seeds=seeds,
              **{"splits": ("validation", "test"), "watch": unwatched, **options})
    )  # fmt: skip


def test_recipes_are_all_rates_with_all_decays():
    setting = Setting(
        recipe=Recipe(dropout=0.1, dynamics=1e-3),
        learning_rates=(1e-4, 1e-2),
        weight_decays=(0.0, 0.1, 0.2),
    )
    found = {(r.learning_rate, r.weight_decay, r.dropout) for r in setting.recipes}
    assert found == {(r, d, 0.1) for r in (1e-4, 1e-2) for d in (0.0, 0.1, 0.2)}
    (one,) = setting.with_rate(3e-4).with_decay(0.5).recipes
    assert (one.learning_rate, one.weight_decay, one.dropout) == (3e-4, 0.5, 0.1)
    assert one.dynamics is None
    assert Setting().recipes == (Recipe(),)


def test_every_recipe_is_trained_and_validation_chooses(task):
    found = run(task, (1e-6, 3e-2), seeds=(4, 5))
    assert [(t.recipe.learning_rate, t.seed) for t in found] == [
        (1e-6, 4), (1e-6, 5), (3e-2, 4), (3e-2, 5),
    ]  # fmt: skip
    best = chosen(found)
    assert {t.recipe.learning_rate for t in best} == {3e-2}
    assert [t.seed for t in best] == [4, 5]
    for training in found:
        validation, test = training.result.evaluations.values()
        assert list(training.result.evaluations) == ["validation", "test"]
        assert (validation[0].asked, test[0].asked) == (100, 70)
        assert training.result.score == validation[0].value


def outcome(rate, score):
    status = "failed" if score is None else "complete"
    return Trained(Recipe(learning_rate=rate), 0, TrainResult(status, score, error="it diverged"))


def test_the_choice_is_the_best_mean_and_never_one_that_failed():
    several = [outcome(1, 0.5), outcome(1, 0.7), outcome(2, 0.9), outcome(2, None),
               outcome(3, 0.61), outcome(3, 0.61)]  # fmt: skip
    assert [t.recipe.learning_rate for t in chosen(several)] == [3, 3]
    with pytest.raises(NasError, match="it diverged"):
        chosen([outcome(1, None), outcome(2, None)])


def test_a_recipe_that_diverges_does_not_end_the_sweep(task):
    found = run(task, (1e30, 3e-2))
    assert [t.result.status for t in found] == ["failed", "complete"]
    assert chosen(found)[0].recipe.learning_rate == 3e-2
    with pytest.raises(NasError, match="non-finite"):
        run(task, (1e30,))


def test_a_sweep_that_goes_on_trains_nothing_twice(task, tmp_path):
    whole = run(task, (1e-2, 3e-2), seeds=(0, 1))
    first = run(task, (1e-2, 3e-2), checkpoints=tmp_path)
    folders = sorted(path.parent.name for path in tmp_path.glob("of-dice/*/step-00000060"))
    assert folders == ["D=8-lr=0.01-wd=0.05-seed=0", "D=8-lr=0.03-wd=0.05-seed=0"]
    steps = []

    @contextmanager
    def counted(name, total):
        yield lambda step, loss: steps.append((name, step))

    again = run(task, (1e-2, 3e-2), seeds=(0, 1), checkpoints=tmp_path, watch=counted)
    assert len(steps) == 2 * 60  # the two of seed 1
    assert [t.result.score for t in again] == [t.result.score for t in whole]
    assert [t.result.losses for t in first] == [whole[0].result.losses, whole[2].result.losses]


def test_training_ends_after_the_epoch_that_is_good_enough(task, tmp_path):
    """An epoch has 8 steps; the first checkpointed state above the mark, and not before one."""
    recipe = Recipe(learning_rate=3e-3)
    scores = [
        train(NET, task, recipe, width=8, seed=0, until_step=8 * epoch).score
        for epoch in range(1, 8)
    ]
    mark = sorted(set(scores))[1]
    first = next(epoch for epoch, score in enumerate(scores, 1) if score > mark)
    found = train(NET, task, recipe, width=8, seed=0, enough=mark, checkpoints=tmp_path)
    assert (found.status, found.step, found.score) == ("complete", 8 * first, scores[first - 1])
    # Continued, it ends where it was: the same is asked of the same state.
    resume = latest_checkpoint(tmp_path)
    again = train(NET, task, recipe, width=8, seed=0, enough=mark, resume=resume)
    assert (again.step, again.score) == (found.step, found.score)
    never = train(NET, task, recipe, width=8, seed=0, enough=1.0)
    assert never.step == 60
    assert never.losses == train(NET, task, recipe, width=8, seed=0).losses


def test_decays_and_steps_have_a_rate_of_their_own():
    context = {"L": (16,), "D": 8, "causal": True}
    term = Space.load(find_space("hybrid.lark"), context=context).parse(find_architecture("s4d"))
    model = Model(term.term, 8, Tokens(4), Label(2), 16, True)
    recipe = Recipe(learning_rate=1e-2, dynamics=1e-3)
    groups = _optimizer(model, recipe).param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    own = {names[id(p)].rpartition(".")[2] for g in groups if g["peak"] for p in g["params"]}
    assert own == {"log_steps", "log_rates", "frequencies"}
    assert sum(len(g["params"]) for g in groups) == len(names)
    assert all(g["peak"] is None for g in _optimizer(model, Recipe()).param_groups)
    # By hand: warm-up over a tenth, then a half cosine down to `last`.
    ended = Recipe(learning_rate=1e-2, last=1e-6)
    assert ended.rate(9, 100, 1e-3) == pytest.approx(1e-3)
    assert ended.rate(55, 100, 1e-3) == pytest.approx((1e-3 + 1e-6) / 2)
    assert ended.rate(100, 100) == pytest.approx(1e-6)
    assert ended.rate(40, 100) == pytest.approx(
        1e-6 + (1e-2 - 1e-6) * (1 + math.cos(math.pi / 3)) / 2
    )


def test_dropout_zeroes_what_the_embedding_says_in_training_alone(task):
    torch.manual_seed(0)
    model = Model(NET, 64, Tokens(3), Label(2), 9, False)
    model.dropout = 0.25
    seen = []
    model.body.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    tokens = torch.ones(50, 9, dtype=torch.int64)
    model.train()
    model(tokens)
    model.eval()
    model(tokens)
    row = model.embedding.weight[1].detach()
    trained, measured = seen
    assert torch.equal(measured, row.expand_as(measured))
    gone = trained == 0
    assert float(gone.float().mean()) == pytest.approx(0.25, abs=0.01)  # of 28,800
    assert torch.allclose(trained[~gone], (row / 0.75).expand_as(trained)[~gone])
    plain = train(NET, task, Recipe(), width=8, seed=0).losses
    assert plain != train(NET, task, Recipe(dropout=0.5), width=8, seed=0).losses
    assert plain == train(NET, replace(task), Recipe(dropout=0.0), width=8, seed=0).losses
