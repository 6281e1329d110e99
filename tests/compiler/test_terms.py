import pytest

from nas.compiler.terms import body_of, read_term
from nas.errors import UsageError
from nas.grammar.derivation import Term
from nas.layers.attention import Attention


def test_blocks_and_parameters_are_told_apart():
    norm = Term("norm")
    reading = read_term(
        Term("gated", (Term("expansion", ("2",)), Term("activation", ("gelu",)), norm))
    )
    assert reading.blocks == (norm,)
    assert reading.arguments == {"expansion": 2, "activation": "gelu"}


def test_numbers_are_read_as_numbers_and_words_stay_words():
    values = {"heads": "8", "kv": "2", "window": "full", "position": "rope"}
    term = Term("attention", tuple(Term(name, (value,)) for name, value in values.items()))
    primitive, blocks, arguments = read_term(term)
    assert primitive is Attention
    assert blocks == ()
    assert arguments == {"heads": 8, "kv": 2, "window": "full", "position": "rope"}


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (Term("atention"), "no layer is called 'atention': did you mean attention?"),
        (Term("zzz"), "no layer is called 'zzz': known are add, "),
        (Term("mlp", (Term("expansion", ("4",)),)), "mlp: missing .* 'activation'"),
        (Term("norm", (Term("heads", ("4",)),)), "norm: got an unexpected .* 'heads'"),
        (Term("res", (Term("norm"), Term("norm"))), "res: too many positional arguments"),
        (Term("res"), "res: missing a required argument: 'block'"),
        (Term("norm", ("4",)), "norm takes no parameter without a name: '4'"),
        (Term("repeat", (Term("times", ("2",)),) * 2), "repeat has the parameter times twice"),
        (Term("res", (Term("x", (Term("norm"),)),)), "'x' in res is neither layer nor value"),
    ],
)
def test_a_wrong_term_is_refused_in_one_line(term, message):
    with pytest.raises(UsageError, match=message) as error:
        read_term(term)
    assert "\n" not in str(error.value)


def test_the_root_is_around_one_body():
    body = Term("norm")
    assert body_of(Term("net", (body,))) is body
    assert body_of(body) is body
    with pytest.raises(UsageError, match="net takes one block, not 2 arguments"):
        body_of(Term("net", (body, body)))
