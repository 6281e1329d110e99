import io
import tarfile

import numpy as np
import pytest

from nas.errors import UsageError
from nas.tasks.archives import DamagedDataError, data_folders, members, with_validation
from nas.tasks.base import SPLITS, Split


def make(path, entries, mode="w:gz"):
    with tarfile.open(path, mode) as tar:
        for name, content in entries:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_wanted_members_come_in_order(tmp_path, mode):
    path = make(tmp_path / "a.tar", [("./a/1", b"one"), ("b", b"no"), ("a/2", b"")], mode)
    found = list(members(path, lambda name: name.startswith("a/"), 100))
    assert found == [("a/1", b"one"), ("a/2", b"")]


def test_a_member_larger_than_any_original_is_refused(tmp_path):
    path = make(tmp_path / "a.tar", [("a", b"x" * 101)])
    with pytest.raises(DamagedDataError, match="101 bytes"):
        list(members(path, lambda name: True, 100))
    assert list(members(path, lambda name: False, 100)) == []


def test_a_missing_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(DamagedDataError, match=r"gone\.tar"):
        list(members(tmp_path / "gone.tar", lambda name: True, 100))


def test_folders_are_looked_for_in_order(tmp_path, monkeypatch):
    monkeypatch.delenv("NAS_DATA", raising=False)
    assert data_folders(None, "imdb") == []
    assert data_folders(tmp_path, "imdb") == [tmp_path, tmp_path / "imdb"]
    monkeypatch.setenv("NAS_DATA", str(tmp_path / "other"))
    assert data_folders(tmp_path, "imdb")[0] == tmp_path
    with pytest.raises(UsageError, match="NAS_DATA names"):
        data_folders(None, "imdb")


def split(values) -> Split:
    rows = np.array(values, dtype=np.uint8)[:, None]
    return Split(rows, rows[:, 0] % 5, np.ones(len(rows), dtype=np.int16))


def values(part: Split) -> list[int]:
    assert (part.targets == part.inputs[:, 0] % 5).all()
    assert len(part.lengths) == len(part)
    return part.inputs[:, 0].tolist()


def test_splits_are_disjoint_and_nothing_else_is_lost():
    train = [*range(100), 3, 3, 50]
    result = with_validation(split(train), split(range(90, 130)), validation=20)
    found = {name: values(result[name]) for name in SPLITS}
    assert sorted(found["train"] + found["validation"]) == sorted(v for v in train if v < 90)
    assert not set(found["train"]) & set(found["validation"])
    assert sorted(found["test"]) == list(range(90, 130))
    assert 20 <= len(found["validation"]) <= 23


def test_the_order_of_the_files_does_not_matter():
    one = with_validation(split(range(50)), split(range(60, 70)), validation=10)
    other = with_validation(split(range(49, -1, -1)), split(range(69, 59, -1)), validation=10)
    for name in SPLITS:
        assert values(one[name]) == values(other[name])


def test_fewer_examples_are_the_first_of_more():
    many = with_validation(split(range(80)), split(range(90, 120)), validation=20)
    few = with_validation(
        split(range(80)), split(range(90, 120)), validation=20, most={"validation": 5, "test": 7}
    )
    assert values(few["train"]) == values(many["train"])
    assert values(few["validation"]) == values(many["validation"])[:5]
    assert values(few["test"]) == values(many["test"])[:7]


def test_few_examples_are_shared_out():
    result = with_validation(split(range(4)), split(range(9, 10)), validation=100)
    assert len(result["train"]) == 2
    assert len(result["validation"]) == 2
