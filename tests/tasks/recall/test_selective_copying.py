import numpy as np
import pytest
from scipy import stats

from nas.tasks.base import IGNORED
from nas.tasks.random_streams import derive, stream
from nas.tasks.recall.selective_copying import PAPER, SMALL, decode, draw, selective_copying


@pytest.mark.parametrize("of", [SMALL, PAPER], ids=repr)
def test_the_answers_are_the_data_in_their_order(of):
    drawn = draw(derive(stream("selected"), np.arange(100)), of)
    for inputs, targets in zip(drawn.inputs, drawn.targets, strict=True):
        data = [token for token in inputs[: of.length].tolist() if token != 0]
        assert len(data) == of.data
        assert all(2 <= token < 2 + of.vocabulary for token in data)
        assert inputs[of.length :].tolist() == [1] * of.data
        assert (targets[: of.length] == IGNORED).all()
        assert targets[of.length :].tolist() == data


def test_places_and_symbols_are_uniform():
    drawn = draw(derive(stream("places"), np.arange(5000)), SMALL)
    places = (drawn.inputs[:, : SMALL.length] != 0).sum(axis=0)
    assert stats.chisquare(places).pvalue > 1e-3
    symbols = np.bincount(drawn.targets[drawn.targets != IGNORED])[2:]
    assert stats.chisquare(symbols).pvalue > 1e-3


def test_profiles():
    small = selective_copying("small")
    assert small.causal
    assert small.baselines["majority"] == pytest.approx(1 / 8, abs=0.02)
    # The last of four, and by chance of the three others.
    assert small.baselines["the last of the data"] == pytest.approx(0.25 + 0.75 / 8, abs=0.02)
    paper = selective_copying("paper")
    assert (paper.length, paper.inputs.vocabulary) == (4112, 16)
    row = small.splits["train"].inputs[0]
    assert decode(row, small.splits["train"].targets[0]).count("?") == SMALL.data


def test_knobs():
    longer = selective_copying("small", length=56)
    assert longer.inputs == selective_copying("small").inputs
    inputs = longer.splits["test"].inputs
    assert inputs.shape == (1000, 56)
    assert ((inputs[:, :52] > 1).sum(1) == 4).all()
    other = selective_copying("small", data=6, vocabulary=3)
    inputs, targets = other.splits["test"].inputs, other.splits["test"].targets
    assert inputs.shape == (1000, 30)
    assert set(np.unique(targets).tolist()) == {IGNORED, 2, 3, 4}
    for wrong in ({"length": 7}, {"data": 0}, {"vocabulary": 1}):
        with pytest.raises(ValueError, match=r"fit|at least 2"):
            selective_copying("small", **wrong)
