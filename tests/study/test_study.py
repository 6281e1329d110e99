import os
import shutil
import sqlite3
from pathlib import Path

import optuna
import pytest

from nas.errors import NasError, UsageError
from nas.study.study import Limits, Study, find_studies
from tests.study.synthetic import definition


def test_created_and_opened_again(tmp_path):
    Study.create("a", definition(), storage=tmp_path / "new", limits=Limits(40, 60.0))
    study = Study.open("a", storage=tmp_path / "new")
    assert study.definition == definition()
    assert study.limits == Limits(40, 60.0)
    assert study.trials() == []
    assert study.driver() is None
    assert study.folder == tmp_path / "new" / "studies" / "a"
    study.limits = Limits(80)
    assert Study.open("a", storage=tmp_path / "new").limits == Limits(80, None)


def test_the_score_is_named_with_the_sub_tasks(tmp_path):
    study = Study.create("a", definition(), storage=tmp_path)
    optuna_study = optuna.load_study(study_name="a", storage=study.url)
    assert optuna_study.metric_names == ["accuracy (small, validation): mean of pair/one, pair/two"]
    assert [d.name for d in optuna_study.directions] == ["MAXIMIZE"]


def test_an_existing_study_is_not_overwritten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Study.create("a", definition())
    assert (tmp_path / "results" / "a.db").is_file()
    with pytest.raises(UsageError, match="study a exists already: `nas resume a` goes on"):
        Study.create("a", definition(seed=9))
    assert Study.open("a").definition.seed == 3
    url = "sqlite:///many.db"
    Study.create("a", definition(), storage=url)
    Study.create("b", definition(), storage=url)
    with pytest.raises(UsageError, match=f"`nas resume b --storage {url}`"):
        Study.create("b", definition(), storage=url)


def test_another_programs_study_of_the_name_is_left_alone(tmp_path):
    url = f"sqlite:///{tmp_path}/o.db"
    optuna.create_study(study_name="theirs", storage=url)
    with pytest.raises(UsageError, match="exists already"):
        Study.create("theirs", definition(), storage=url)
    with pytest.raises(UsageError, match=r"no study theirs in .*there is none"):
        Study.open("theirs", storage=url)
    Study.create("ours", definition(), storage=url)
    assert Study.open("ours", storage=url).definition == definition()


@pytest.mark.parametrize("name", ["", "a/b", "../a", "a b", ".a", "-a", "ä", "x" * 101])
def test_a_name_that_is_no_name(name, tmp_path):
    with pytest.raises(UsageError, match="is no name for a study"):
        Study.create(name, definition(), storage=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_study_with_close_names_and_without(tmp_path):
    for name in ("lra-1", "lra-2", "other"):
        Study.create(name, definition(), storage=tmp_path)
    with pytest.raises(UsageError, match=r"no study lra1 in .*: did you mean lra-1, lra-2"):
        Study.open("lra1", storage=tmp_path)
    with pytest.raises(UsageError, match=r"no study zzz in .*: there is lra-1, lra-2, other"):
        Study.open("zzz", storage=tmp_path)
    with pytest.raises(UsageError, match=r"no study x in .*nowhere: there is none"):
        Study.open("x", storage=tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(UsageError, match=r"no study x in sqlite:.*missing.db"):
        Study.open("x", storage=f"sqlite:///{tmp_path}/missing.db")


def test_all_studies_of_a_folder_and_what_cannot_be_read(tmp_path):
    Study.create("a", definition(), storage=tmp_path)
    Study.create("b", definition(width=64), storage=tmp_path)
    (tmp_path / "c.db").write_bytes(b"no database, this is " * 500)
    with sqlite3.connect(tmp_path / "d.db") as connection:
        connection.execute("CREATE TABLE t (x)")
    found, failed = find_studies(tmp_path)
    assert [(study.name, study.definition.width) for study in found] == [("a", 32), ("b", 64)]
    assert "c.db: the database is damaged" in str(failed[0])
    assert "d.db is not a database of studies" in str(failed[1])
    with pytest.raises(UsageError, match="did you mean a"):  # and names are still offered
        Study.open("aa", storage=tmp_path)


def test_a_damaged_database_is_one_line(tmp_path):
    Study.create("a", definition(), storage=tmp_path).close()
    with open(tmp_path / "a.db", "r+b") as file:
        file.truncate(os.path.getsize(tmp_path / "a.db") // 2)
    with pytest.raises(
        NasError, match=r"a\.db: the database is damaged; put back a copy"
    ) as raised:
        Study.open("a", storage=tmp_path)
    assert "\n" not in str(raised.value)


def test_a_study_can_be_moved(tmp_path):
    Study.create("a", definition(), storage=tmp_path / "here").close()
    shutil.move(tmp_path / "here", tmp_path / "there")
    moved = Study.open("a", storage=tmp_path / "there")
    assert moved.folder == tmp_path / "there" / "studies" / "a"


def test_a_relative_place_is_relative_to_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = Study.create("a", definition(), storage="x/y")
    assert Path("x/y/a.db").is_file()
    assert study.folder == Path("x/y/studies/a")
