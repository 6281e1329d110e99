import numpy as np
import pytest
from scipy import stats

from nas.tasks.base import IGNORED
from nas.tasks.random_streams import derive, stream
from nas.tasks.recall.copy_memory import PAPER, SMALL, copy_memory, draw


@pytest.mark.parametrize("of", [SMALL, PAPER], ids=repr)
def test_the_answers_are_the_digits(of):
    drawn = draw(derive(stream("digits"), np.arange(100)), of)
    digits, rest = drawn.inputs[:, : of.digits], drawn.inputs[:, of.digits :]
    assert ((digits >= 1) & (digits <= 8)).all()
    assert (rest[:, : of.blanks] == 0).all()
    assert (rest[:, of.blanks :] == 9).all()
    assert rest.shape[1] == of.blanks + of.digits
    assert (drawn.targets[:, : -of.digits] == IGNORED).all()
    assert (drawn.targets[:, -of.digits :] == digits).all()


def test_digits_are_uniform():
    drawn = draw(derive(stream("uniform"), np.arange(2000)), SMALL)
    assert stats.chisquare(np.bincount(drawn.inputs[:, : SMALL.digits].ravel())[1:]).pvalue > 1e-3


def test_profiles():
    small = copy_memory("small")
    assert small.causal
    assert small.baselines["majority"] == pytest.approx(1 / 8, abs=0.02)
    paper = copy_memory("paper")
    assert paper.length == 1020
    assert "?" in small.decode(small.splits["train"].inputs[0], small.splits["train"].targets[0])


def test_knobs():
    longer = copy_memory("small", length=60)
    inputs = longer.splits["test"].inputs
    assert inputs.shape == (1000, 60)
    assert ((inputs == 0).sum(1) == 48).all()
    assert ((inputs == 9).sum(1) == 6).all()
    assert (
        copy_memory("small", digits=7, length=30).splits["test"].inputs[0, 23:].tolist() == [9] * 7
    )
    with pytest.raises(ValueError, match="6 digits, a blank and answers take 13 positions"):
        copy_memory("small", length=12)
    with pytest.raises(ValueError, match="at least one digit"):
        copy_memory("small", digits=0)
