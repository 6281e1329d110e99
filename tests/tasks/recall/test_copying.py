import re
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from nas.tasks.base import IGNORED
from nas.tasks.random_streams import derive, stream
from nas.tasks.recall.copying import PAPER, SMALL, Copying, copying, decode, draw


@pytest.mark.parametrize("of", [SMALL, PAPER, Copying(30, 3, 2, 4)], ids=repr)
def test_what_is_asked_is_the_string_again(of):
    drawn = draw(derive(stream("copies"), np.arange(300)), of)
    assert drawn.inputs.shape == drawn.targets.shape == (300, of.length)
    for inputs, targets in zip(drawn.inputs, drawn.targets, strict=True):
        text = decode(inputs, targets)
        assert re.fullmatch(r"(\$[a-z]+\|[a-z]+\.)+_*", text)
        expected = np.full(of.length, IGNORED)
        for found in re.finditer(r"\$([a-z]+)\|([a-z]+)\.", text):
            assert found[1] == found[2]
            assert of.shortest <= len(found[1]) <= of.longest
            assert set(found[1]) <= set("abcdefghijklmnopqrstuvwxyz"[: of.letters])
            for i in range(found.start(2) - 1, found.end(2)):
                expected[i] = inputs[i + 1]
        assert targets.tolist() == expected.tolist()


def test_first_strings_have_uniform_lengths_and_letters():
    drawn = draw(derive(stream("lengths"), np.arange(8000)), SMALL)
    firsts = [decode(row, row)[1:].split("|")[0] for row in drawn.inputs]
    lengths = Counter(map(len, firsts))
    assert stats.chisquare([lengths[n] for n in range(5, 21)]).pvalue > 1e-3
    letters = Counter("".join(firsts))
    assert len(letters) == 26
    assert stats.chisquare(list(letters.values())).pvalue > 1e-3


def test_profiles():
    small = copying("small")
    assert small.causal
    assert small.baselines["majority"] < 0.1
    assert small.baselines["the letter before"] < 0.05
    paper = copying("paper")
    assert paper.length == 220


def test_knobs():
    longer = copying("small", length=88)  # longer than trained: longer strings
    assert longer.inputs == copying("small").inputs
    row = decode(longer.splits["test"].inputs[0], longer.splits["test"].targets[0])
    assert 20 <= len(row[1:].split("|")[0]) <= 42
    few = copying("small", length=30, shortest=2, longest=13)
    lengths = {len(decode(x, x)[1:].split("|")[0]) for x in few.splits["train"].inputs}
    assert lengths == set(range(2, 14))
    with pytest.raises(ValueError, match="take 43 positions, more than 30"):
        copying("small", length=30)
    with pytest.raises(ValueError, match="no string has 9 to 8 letters"):
        copying("small", shortest=9, longest=8)
