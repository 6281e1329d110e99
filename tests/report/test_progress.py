import io
import re

import pytest
from rich.console import Console

from nas.report.progress import Countdown, clock, shorten
from nas.search.finals import Retraining


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (-3, "0:00"), (59.6, "1:00"), (61, "1:01"), (7325, "2:02:05")],
)
def test_durations(seconds, text):
    assert clock(seconds) == text


def test_long_texts_end_in_an_ellipsis():
    assert shorten("x" * 10, 10) == "x" * 10
    assert shorten("x" * 11, 10) == "x" * 9 + "…"


def test_every_retraining_is_told_with_what_is_left():
    out = io.StringIO()
    countdown = Countdown({"a": "winner", "b": "hawk"}, 3, Console(file=out, width=100))
    countdown(Retraining("a", 1e-3, 1000, 0.51234, {}, 1.0))
    countdown(Retraining("b", 1e-3, 1000, None, {}, 1.0, "the loss was not finite"))
    lines = out.getvalue().splitlines()
    assert lines[0] == "final comparison: 3 retrainings from fresh seeds"
    assert re.fullmatch(r"0:00  1 of 3: winner 0.5123 on test; about \d+:\d\d left", lines[1])
    assert "2 of 3: hawk the loss was not finite" in lines[2]
