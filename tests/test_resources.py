import pytest

from nas.errors import UsageError
from nas.resources import find_architecture, find_space, packaged_architectures, packaged_spaces


def test_packaged_names_are_found_with_and_without_their_ending():
    assert find_space("hybrid.lark") == find_space("hybrid")
    assert find_space("hybrid") in packaged_spaces()
    for path in packaged_architectures():
        assert find_architecture(path.name) == find_architecture(path.stem) != ""


def test_a_path_is_taken_before_a_packaged_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hybrid.lark").write_text('start: "a"\n')
    assert find_space("hybrid.lark").read_text() == 'start: "a"\n'
    (tmp_path / "mine.arch").write_text("net(\n  linear)\n\n")
    assert find_architecture(str(tmp_path / "mine.arch")) == "net(\n  linear)"


def test_a_text_is_itself():
    assert find_architecture(" net(linear)\n") == "net(linear)"


def test_close_names_are_offered():
    with pytest.raises(UsageError, match=r"no space file hybird.lark: did you mean hybrid.lark\?"):
        find_space("hybird.lark")
    with pytest.raises(UsageError, match=r"did you mean transformer.arch"):
        find_architecture("tranformer")


def test_a_name_close_to_nothing_lists_what_there_is():
    with pytest.raises(UsageError, match=r"packaged are .*hybrid\.lark"):
        find_space("zzz")


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "weights.arch"
    path.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(UsageError, match="cannot read the architecture"):
        find_architecture(str(path))
