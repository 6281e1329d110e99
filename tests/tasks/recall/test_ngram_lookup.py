import re
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from nas.errors import UsageError
from nas.tasks.base import IGNORED, SPLITS
from nas.tasks.random_streams import derive, stream
from nas.tasks.recall.copying import decode
from nas.tasks.recall.ngram_lookup import Lookup, definition, draw, prefix, suffix
from nas.tasks.registry import load_task

DEFINITIONS = [
    definition("small", "prefix", None, 3, 0),
    definition("small", "suffix", None, 3, 0),
    definition("paper", "prefix", None, 3, 0),
    definition("paper", "suffix", None, 2, 2),
    definition("small", "suffix", 200, 4, 0),
    definition("paper", "prefix", 30, 1, 3),
    Lookup(60, True, n=2, letters=3, shortest=4, longest=12),
]


def strings_of(inputs, of):
    """The strings of a row, as `(start, key, string, answer, where the answer starts)`."""
    row = decode(inputs, inputs)
    pattern = r"\$([a-z]+)\|([a-z]+)\." if of.suffix else r"\$([a-z]+)\|([a-z]+)\|([a-z]+)\."
    assert re.fullmatch(f"({pattern})+_*", row), row
    for found in re.finditer(pattern, row):
        if of.suffix:
            string, key, answer = found[1], found[2][: of.n], found[2][of.n :]
            yield found.start(), key, string, answer, found.start(2) + of.n
        else:
            yield found.start(), found[1], found[2], found[3], found.start(3)


@pytest.mark.parametrize("of", DEFINITIONS, ids=repr)
def test_what_is_asked_stands_behind_the_key(of):
    drawn = draw(derive(stream("ngrams"), np.arange(300)), of)
    assert drawn.inputs.shape == drawn.targets.shape == (300, of.length)
    assert drawn.kept.mean() > (0.2 if of.letters == 3 else 0.97)
    for inputs, targets in zip(drawn.inputs[drawn.kept], drawn.targets[drawn.kept], strict=True):
        expected = np.full(of.length, IGNORED)
        end = 0
        for start, key, string, answer, where in strings_of(inputs, of):
            assert start == end
            assert of.shortest <= len(string) <= of.longest
            assert set(string) <= set("abcdefghijklmnopqrstuvwxyz"[: of.letters])
            places = [i for i in range(len(string)) if string.startswith(key, i)]
            assert len(key) == of.n
            assert len(places) == 1
            behind = string[places[0] + of.n :]
            assert answer == (behind[: of.answer] if of.answer else behind)
            end = where + len(answer) + 1
            for i in range(where - 1, end - 1):
                expected[i] = inputs[i + 1]
        assert targets.tolist() == expected.tolist()
        assert of.length - end < of.widest + (of.widest == of.length)


def test_a_row_holds_as_many_strings_as_fit():
    of = DEFINITIONS[3]
    drawn = draw(derive(stream("rows"), np.arange(300)), of)
    strings = [list(strings_of(row, of)) for row in drawn.inputs]
    assert min(map(len, strings)) >= of.length // of.widest
    assert max(map(len, strings)) > of.length // of.widest + 2


@pytest.mark.parametrize("of", DEFINITIONS[:2], ids=repr)
def test_lengths_letters_and_places_are_uniform(of):
    drawn = draw(derive(stream("uniform"), np.arange(6000)), of)
    firsts = [next(strings_of(row, of)) for row in drawn.inputs]
    lengths = Counter(len(string) for _, _, string, _, _ in firsts)
    assert stats.chisquare([lengths[n] for n in range(5, 21)]).pvalue > 1e-3
    letters = Counter("".join(string for _, _, string, _, _ in firsts))
    assert len(letters) == 26
    assert stats.chisquare(list(letters.values())).pvalue > 1e-3
    # Of 14 letters, a key of 3 starts at one of the first 11.
    places = Counter(s.index(key) for _, key, s, _, _ in firsts if len(s) == 14)
    assert stats.chisquare([places[i] for i in range(11)]).pvalue > 1e-3


def test_an_example_does_not_depend_on_its_neighbours():
    keys = derive(stream("alone"), np.arange(20))
    together = draw(keys, DEFINITIONS[2])
    for i in range(20):
        alone = draw(keys[i : i + 1], DEFINITIONS[2])
        assert (alone.inputs[0] == together.inputs[i]).all()
        assert (alone.targets[0] == together.targets[i]).all()


@pytest.mark.parametrize("make", [prefix, suffix])
def test_profiles(make):
    small = make("small")
    assert small.data_hash == FROZEN[small.name]
    assert small.causal
    assert small.baselines["majority"] < 0.25
    assert small.baselines["the letter before"] < 0.05
    assert small.baselines["what followed the letter before"] < 0.65
    rows = [row.tobytes() for name in SPLITS for row in small.splits[name].inputs]
    assert len(set(rows)) == len(rows)
    assert make("paper").length == 220


def test_longer_strings_than_trained_are_the_same_task():
    (task,) = load_task("ngram_lookup/suffix[n=2]", "small").tasks
    longer = task.longer(88)
    assert longer.inputs == task.inputs
    of = definition("small", "suffix", 88, 2, 0)
    assert (of.shortest, of.longest) == (21, 40)
    (trained,) = load_task("ngram_lookup/suffix[length=88]", "small").tasks
    assert trained.longer(176).length == 176
    assert definition("paper", "suffix", 440, 3, 0).shortest == 21


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ("n=0", "n is 1 to 12 letters, not 0"),
        ("n=13", "n is 1 to 12 letters, not 13"),
        ("n=5", "strings of 5 letters have no key of 5 with 1 behind it"),
        ("answer=3", "no key of 3 with 3 behind it: choose a smaller n or answer"),
        ("answer=-1", "answer is a number of letters, or 0 for all, not -1"),
        ("length=15", "length is 16 to 8192 tokens, not 15"),
        ("n=1,length=500", "few strings of 227 letters have a key of 1 that occurs once"),
        ("length=10000", "length is 16 to 8192 tokens, not 10000"),
    ],
)
def test_impossible_knobs_are_refused(knobs, told):
    for variant in ("prefix", "suffix"):
        with pytest.raises(UsageError, match=told):
            load_task(f"ngram_lookup/{variant}[{knobs}]", "small")


FROZEN = {
    "ngram_lookup/prefix": "a363ffc45ae5a402a4464dbe16f9c55052840d41f56b22fa2323f8cfe03ebee5",
    "ngram_lookup/suffix": "3fbbdda7d92e54bfa824d18a33d9d6681d80c319e706d984318f74c7248f4c37",
}
