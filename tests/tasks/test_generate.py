import tracemalloc

import numpy as np

from nas.tasks import generate
from nas.tasks.base import SPLITS
from nas.tasks.generate import Draw, fingerprints, generated
from nas.tasks.random_streams import integers


def few(keys) -> Draw:
    """Only 300 different examples, a third of the attempts rejected."""
    values = integers(keys, 300)
    inputs = np.stack([values // 20, values % 20], axis=1).astype(np.uint8)
    return Draw(inputs, (values % 7).astype(np.uint8), values % 3 > 0, np.full(len(keys), 2))


def rows(splits):
    return [tuple(row) for name in SPLITS for row in splits[name].inputs.tolist()]


def test_all_examples_differ_and_fit_the_definition(fresh_cache):
    splits = generated("toy", 1, (100, 50, 40), few)
    assert [len(splits[name]) for name in SPLITS] == [100, 50, 40]
    assert len(set(rows(splits))) == 190  # of the 200 that there are
    for name in SPLITS:
        values = splits[name].inputs.astype(int) @ [20, 1]
        assert (values % 3 > 0).all()
        assert (splits[name].targets == values % 7).all()
        assert (splits[name].lengths == 2).all()


def test_repeats_stand_within_a_split_and_never_in_two(fresh_cache):
    splits = generated("toy", 1, (150, 60, 60), few, repeats=True)
    inputs = [{tuple(row) for row in splits[name].inputs.tolist()} for name in SPLITS]
    assert len(inputs[0]) < 150
    assert len(rows(splits)) == 270
    assert not inputs[0] & inputs[1]
    assert not inputs[2] & (inputs[0] | inputs[1])


def test_held_out_examples_can_be_drawn_otherwise(fresh_cache):
    def other(keys) -> Draw:
        draw = few(keys)
        return Draw(draw.inputs, draw.targets + np.uint8(50), draw.kept, draw.lengths)

    splits = generated("toy", 1, (100, 50, 40), few, held_out=other)
    assert splits["train"].targets.max() < 50
    assert min(splits[name].targets.min() for name in ("validation", "test")) >= 50
    assert len(set(rows(splits))) == 190


def test_examples_do_not_depend_on_how_many_are_drawn_together(fresh_cache, monkeypatch):
    whole = generated("toy", 1, (100, 50, 40), few)
    monkeypatch.setenv("NAS_CACHE", str(fresh_cache / "other"))
    parts = generated("toy", 1, (100, 50, 40), few, chunk=7)
    assert rows(whole) == rows(parts)


def test_making_and_reading_need_little_more_memory_than_the_data(fresh_cache):
    def wide(keys) -> Draw:
        inputs = np.zeros((len(keys), 16_384), dtype=np.uint8)
        inputs[:, :8] = keys[:, None].view(np.uint8)
        return Draw(inputs, np.zeros(len(keys), dtype=np.uint8), np.ones(len(keys), np.bool_))

    sizes = (2000, 500, 500)
    for _ in range(2):
        tracemalloc.start()
        try:
            splits = generated("wide", 1, sizes, wide, chunk=256)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        data = sum(split.inputs.nbytes for split in splits.values())
        assert data == 3000 * 16_384
        assert peak < data + 60e6


def test_what_takes_long_says_how_far_it_is(fresh_cache, monkeypatch, caplog):
    generated("short", 1, (50, 20, 10), few)
    assert not caplog.records
    monkeypatch.setattr(generate, "_SILENCE", -1.0)
    generated("toy", 1, (1000, 1, 1), lambda keys: Draw(keys[:, None], keys, keys > 0), chunk=500)
    assert caplog.messages[:2] == [
        "toy: 500 of 1,002 examples are made",
        "toy: 1,000 of 1,002 examples are made",
    ]


def test_a_draw_may_keep_nothing(fresh_cache):
    def seldom(keys) -> Draw:
        draw = few(keys)
        return Draw(draw.inputs, draw.targets, keys % np.uint64(50) == 0)

    splits = generated("toy", 1, (20, 5, 5), seldom, chunk=3)
    assert len(set(rows(splits))) == 30


def test_the_first_examples_do_not_depend_on_the_size(fresh_cache):
    many, less = (generated("toy", 1, (n, 1, 1), few)["train"].inputs for n in (30, 10))
    same = (many[:10] == less).all(axis=1)
    assert same.all()


def test_definitions_and_names_have_streams_of_their_own(fresh_cache):
    sets = [rows(generated(name, d, (20, 5, 5), few)) for name, d in (("a", 1), ("a", 2), ("b", 1))]
    assert len({tuple(s) for s in sets}) == 3


def test_the_cache_gives_back_what_was_made(fresh_cache):
    def never(keys):
        raise AssertionError

    made = generated("toy", 1, (20, 5, 5), few)
    read = generated("toy", 1, (20, 5, 5), never)
    for name in SPLITS:
        assert (made[name].inputs == read[name].inputs).all()
        assert made[name].inputs.dtype == read[name].inputs.dtype
        assert (made[name].lengths == read[name].lengths).all()


def test_fingerprints_tell_rows_apart():
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 3, (20_000, 12)).astype(np.uint8)
    marks = fingerprints(inputs)
    assert len(np.unique(marks)) == len(np.unique(inputs, axis=0))
    swapped = inputs.copy()
    swapped[:, [0, 1]] = swapped[:, [1, 0]]
    differ = inputs[:, 0] != inputs[:, 1]
    assert (fingerprints(swapped)[differ] != marks[differ]).all()
