"""What changes the hash of a space, and what does not."""

from pathlib import Path

import pytest

from nas.grammar.loader import load_grammar
from nas.grammar.normal import normalised

SPACE = """%import common.WS
%ignore WS
start: "net" "(" block ")"
block: mixer                          //@ 0.5
     | "seq" "(" block "," block ")"  -> seq     //@ 0.2 * 0.9**depth
mixer: "attention" "(" heads ")" -> attention
!heads: "1"   //@ 1
      | "2"   //@ 2 where D % 2 == 0
"""


def normal(folder: Path, text: str, **others: str) -> str:
    folder.mkdir(exist_ok=True)
    for name, other in others.items():
        (folder / f"{name}.lark").write_text(other)
    (folder / "space.lark").write_text(text)
    return normalised(load_grammar(folder / "space.lark"))


def test_layout_comments_and_files_do_not_matter(tmp_path: Path) -> None:
    expected = normal(tmp_path / "a", SPACE)
    spread = SPACE.replace("\n", "\n\n// comment\n").replace(" //@", "        //@")
    spread = spread.replace("0.2 * 0.9**depth", "(0.20*0.9 ** depth)")
    assert normal(tmp_path / "b", spread) == expected
    head, tail = SPACE.split("mixer: ")
    split = head.replace("%ignore", "%import .deep (mixer)\n%ignore")
    assert normal(tmp_path / "c", split, deep="mixer: " + tail) == expected
    head, tail = SPACE.split("start: ")
    assert normal(tmp_path / "d", "start: " + tail + head) == expected


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.5", "0.6"),
        ("0.9**depth", "0.9**(depth + 1)"),
        ("-> seq ", "-> sequence "),
        ('"seq"', '"then"'),
        ("where D % 2 == 0", "where D % 4 == 0"),
        ("where D % 2 == 0", ""),
        ("!heads", "heads"),
        ("heads", "head_count"),
        ("0.9**depth", "0.9**depth associative"),
        ("0.9**depth", "0.9**depth let D = 2 * D"),
        ("start: ", "//@ max_depth 9\nstart: "),
        ('| "2"', '| "3"  //@ 1\n      | "2"'),
    ],
)
def test_what_matters_shows(old: str, new: str, tmp_path: Path) -> None:
    assert old in SPACE
    before = normal(tmp_path / "a", SPACE)
    assert normal(tmp_path / "b", SPACE.replace(old, new)) != before
