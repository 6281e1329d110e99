"""Texts: read however they are laid out, and refused with the place and what was expected."""

import pytest

from nas.grammar.errors import SpaceError
from nas.grammar.space import Space

SPACE = """
//@ max_depth 6
start: "net" "(" block ")"
block: "seq" "(" block "," block ")" -> seq       //@ 1
     | "narrow" "(" size ")" -> narrow            //@ 2 where D % 4 == 0
     | "norm" -> norm                             //@ 1
!size: "1" | "2"
%import common.WS
%ignore WS
"""


def loaded(folder, text, **context):
    path = folder / "space.lark"
    path.write_text(text)
    return Space.load(str(path), context=context)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "net(sqe(",
            r"column 5: `sqe` where `narrow` or `norm` or `seq` must stand .*mean `seq`",
        ),
        ("net(seq(narrow(1),\n narrow(3)))", r"line 2, column 9: `3` where `1` or `2` must stand"),
        ("net(narrow(1)", r"line 1, column 14: the end of the text where `\)` must stand"),
        ("net(narrow(1)) net", r"line 1, column 16: `net` where the end of the text must stand"),
        ("", r"line 1, column 1: the end of the text where `net` must stand"),
        ("net(ä)", r"line 1, column 5: `ä` where"),
        (
            "net(\n seq(narrow(1), seq(seq(seq(seq(narrow(1), norm), norm), norm), norm)))",
            r"line 2, column 40: `size` lies deeper than max_depth 6 allows",
        ),
    ],
)
def test_what_is_wrong_with_a_text_is_said_with_its_place(tmp_path, text, message):
    with pytest.raises(SpaceError, match=message):
        loaded(tmp_path, SPACE, D=4).parse(text)


def test_a_where_that_forbids_a_text_is_named_with_its_context(tmp_path):
    space = loaded(tmp_path, SPACE, D=6)
    message = (
        r"zoo/old.arch:3: column 1: `narrow` is legal only where D % 4 == 0 \(.*space.lark:5\), "
        r"and here D = 6"
    )
    with pytest.raises(SpaceError, match=message):
        space.parse("// a comment\nnet(\nnarrow(1))", file="zoo/old.arch")


def test_texts_may_be_laid_out_and_commented(tmp_path):
    space = loaded(tmp_path, SPACE, D=4)
    text = "// published\nnet( seq(narrow(1), // first\n\t narrow ( 2 )) )\n"
    assert space.parse(text).text == "net(seq(narrow(1), narrow(2)))"
