import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.tasks.metrics import ACCURACY, BITS, SQUARED_ERROR, Metric
from nas.zoo.learned import is_learned, is_solved

F1 = Metric("F1", True, ACCURACY.measure)
ERRORS = st.floats(0, 1e9)


@pytest.mark.parametrize(
    ("metric", "value", "trivial", "learned", "solved"),
    [
        (ACCURACY, 0.95, 0.5, True, True),
        (ACCURACY, 0.94, 0.5, True, False),
        (ACCURACY, 0.59, 0.5, False, False),
        (ACCURACY, 0.97, 0.9, False, True),
        (F1, 0.7, 0.5, True, False),
        (SQUARED_ERROR, 0.0028, 0.1749, True, True),
        (SQUARED_ERROR, 0.08, 0.1749, True, False),
        (SQUARED_ERROR, 0.09, 0.1749, False, False),
        (SQUARED_ERROR, 2.9e6, 2.9e8, True, True),
        (SQUARED_ERROR, 0.0, 0.0, False, True),
        (BITS, 2.91, 3.57, True, False),
        (BITS, 3.1, 3.57, False, False),
        (BITS, 0.1, 3.57, True, True),
    ],
)
def test_the_rule(metric, value, trivial, learned, solved):
    assert is_learned(metric.name, metric.higher, value, trivial) is learned
    assert is_solved(metric.higher, value, trivial) is solved


@given(st.sampled_from([ACCURACY, SQUARED_ERROR, BITS]), ERRORS, ERRORS, ERRORS)
def test_what_is_better_is_judged_no_worse(metric, one, other, trivial):
    better, worse = sorted((one, other), key=metric.score, reverse=True)
    of = metric.name, metric.higher
    assert is_learned(*of, better, trivial) >= is_learned(*of, worse, trivial)
    assert is_solved(metric.higher, better, trivial) >= is_solved(metric.higher, worse, trivial)
    # No trivial rule has learned anything.
    assert not is_learned(*of, trivial, trivial)
