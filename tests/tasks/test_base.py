import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.compiler.interface import Features, Label, Tokens
from nas.tasks.base import Split, Task, bins, lookup, majority


def task(count=50, batch=8, length=5, inputs=None, lengths=True, **splits) -> Task:
    def source():
        rng = np.random.default_rng(0)
        result = {}
        for name, n in {"train": count, "validation": 20, "test": 13, **splits}.items():
            tokens = np.zeros((n, length), dtype=np.uint8)
            size = rng.integers(1, length + 1, n)
            for row, end in zip(tokens, size, strict=True):
                row[:end] = rng.integers(1, 9, end)
            tokens[:, 0] = np.arange(n) % 256
            result[name] = Split(
                tokens, np.arange(n) % 3, size.astype(np.int16) if lengths else None
            )
        return result

    return Task(
        name="toy", profile="small", summary="", definition="", length=length, causal=False,
        inputs=inputs or Tokens(256), outputs=Label(3), batch_size=batch, steps=10, source=source,
        decode=lambda tokens, target: "", rules={"majority": majority},
    )  # fmt: skip


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 200), st.integers(0, 2**31), st.lists(st.integers(0, 200), max_size=5))
def test_a_batch_is_a_pure_function_of_step_and_seed(step, seed, before):
    expected = task().train_batch(step, seed)
    other = task()
    for earlier in before:
        other.train_batch(earlier, seed + earlier % 2)
    again = other.train_batch(step, seed)
    assert torch.equal(expected.inputs, again.inputs)
    assert torch.equal(expected.targets, again.targets)
    assert torch.equal(expected.mask, again.mask)


def test_an_epoch_shows_every_example_at_most_once_in_an_order_of_its_own():
    toy = task(count=50, batch=8)
    orders = []
    for epoch in range(3):
        shown = torch.cat([toy.train_batch(6 * epoch + i, 1).inputs[:, 0] for i in range(6)])
        assert len(shown.unique()) == 48
        orders.append(tuple(shown.tolist()))
    orders.append(tuple(torch.cat([toy.train_batch(i, 2).inputs[:, 0] for i in range(6)]).tolist()))
    assert len(set(orders)) == 4


def test_every_example_is_shown_over_some_epochs():
    toy = task(count=50, batch=8)
    shown = torch.cat([toy.train_batch(i, 0).inputs[:, 0] for i in range(60)])
    assert sorted(shown.unique().tolist()) == list(range(50))


def test_evaluation_shows_every_example_once_in_order():
    toy = task()
    for name, count in (("validation", 20), ("test", 13)):
        batches = list(toy.evaluation(name))
        assert torch.cat([b.inputs[:, 0] for b in batches]).tolist() == list(range(count))
        assert [len(b.targets) for b in batches][:-1] == [8] * (count // 8)


def test_masks_are_true_where_the_input_is_real():
    toy = task()
    batch = toy.train_batch(0, 0)
    assert batch.mask.dtype == torch.bool
    assert torch.equal(batch.mask[:, 1:], batch.inputs[:, 1:] != 0)
    assert batch.mask.any(dim=1).all()
    assert task(lengths=False).train_batch(0, 0).mask is None


def test_types_and_shapes():
    batch = task().train_batch(3, 0)
    assert batch.inputs.dtype == batch.targets.dtype == torch.int64
    assert batch.inputs.shape == (8, 5)
    assert batch.targets.shape == (8,)
    real = task(inputs=Features(1)).train_batch(3, 0)
    assert real.inputs.dtype == torch.float32
    assert real.inputs.shape == (8, 5, 1)
    assert torch.allclose(real.inputs[..., 0], batch.inputs / 127.5 - 1)


def test_a_training_split_smaller_than_a_batch_is_one_batch():
    batch = task(count=5, batch=8).train_batch(7, 0)
    assert sorted(batch.inputs[:, 0].tolist()) == list(range(5))


def test_the_hash_depends_on_every_example():
    assert task().data_hash == task().data_hash
    assert task().data_hash != task(count=51).data_hash
    assert task().data_hash != task(lengths=False).data_hash
    assert task().data_hash != task(test=14).data_hash


def test_majority_says_the_commonest_class_of_training():
    train = Split(np.zeros((5, 1)), np.array([2, 2, 2, 0, 1]))
    validation = Split(np.zeros((4, 1)), np.array([2, 0, 0, 0]))
    assert majority({"train": train, "validation": validation}) == 0.25


def test_lookup_says_the_commonest_class_of_each_value():
    train = Split(np.array([[0], [0], [1], [1], [1]]), np.array([3, 3, 0, 1, 1]))
    validation = Split(np.array([[0], [1], [1], [7]]), np.array([3, 1, 0, 1]))
    rule = lookup(lambda split: split.inputs[:, 0].astype(np.int64))
    # 0 -> 3 right, 1 -> 1 right, 1 -> 1 wrong, 7 unseen -> commonest class 1 or 3: here 1 (lower).
    assert rule({"train": train, "validation": validation}) == pytest.approx(0.75)


def test_bins_have_fixed_edges():
    assert bins(np.array([-1.0, 0, 0.49, 0.5, 1, 9]), 0, 1, 2).tolist() == [0, 0, 0, 1, 1, 1]
