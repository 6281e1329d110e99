import pytest

from nas.compiler.interface import Features, Label, Reconstruction, TokenLabels, Tokens, Values


@pytest.mark.parametrize("kind", [Tokens, Features, Label, TokenLabels, Reconstruction, Values])
def test_an_interface_of_nothing_is_refused(kind):
    assert kind(1) == kind(1)
    with pytest.raises(ValueError, match="must be at least 1, not 0"):
        kind(0)


def test_a_unit_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="1 means of 2 numbers"):
        Values(2, (0.5,))
    with pytest.raises(ValueError, match="there are none"):
        Values(2, (), 3.0)
    for deviation in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="deviation must be positive"):
            Values(1, (0.5,), deviation)
