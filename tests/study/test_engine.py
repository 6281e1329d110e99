import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import optuna
import pytest
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial
from sqlalchemy import URL, event

from nas.errors import NasError, UsageError
from nas.study.engine import check, connect, database_file, transaction


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/results/study.db"


def new_study(storage, name="s"):
    with transaction(storage):
        return storage.create_new_study([StudyDirection.MAXIMIZE], name)


def running(**attributes):
    return create_trial(state=TrialState.RUNNING, user_attrs=attributes)


def test_durable_settings_on_every_connection(url):
    storage = connect(url, create=True)

    def settings():
        with storage.engine.connect() as connection:
            names = ("journal_mode", "synchronous", "busy_timeout")
            return [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names]

    found = [settings()]
    thread = threading.Thread(target=lambda: found.append(settings()))
    with storage.engine.connect():  # its connection is taken: the thread gets another
        thread.start()
        thread.join()
    assert found == [["wal", 2, 60_000]] * 2  # synchronous: 2 is FULL


def test_a_transaction_takes_the_write_lock_when_it_begins(url):
    storage = connect(url, create=True)
    other = sqlite3.connect(database_file(url), timeout=0)
    with transaction(storage):
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        assert other.execute("SELECT count(*) FROM studies").fetchone() == (0,)  # readers go on
    other.execute("BEGIN IMMEDIATE")
    other.close()


def test_all_of_a_transaction_or_nothing(url):
    storage = connect(url, create=True)
    study = new_study(storage)
    template = running(architecture="x")

    def broken_off():
        with transaction(storage) as connection:
            trial = storage.create_new_trial(study, template)
            storage.set_trial_intermediate_value(trial, 1, 0.5)
            connection.exec_driver_sql("CREATE TABLE t (x)")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken_off()
    assert storage.get_all_trials(study) == []
    with storage.engine.connect() as connection:
        query = "SELECT count(*) FROM sqlite_master WHERE name = 't'"
        assert connection.exec_driver_sql(query).scalar() == 0

    with transaction(storage):
        trial = storage.create_new_trial(study, template)
        storage.set_trial_intermediate_value(trial, 1, 0.5)
        reader = connect(url)
        assert reader.get_all_trials(study) == []  # not before the commit
    (found,) = reader.get_all_trials(study)
    assert (found.user_attrs, found.intermediate_values) == ({"architecture": "x"}, {1: 0.5})


def test_optuna_itself_reads_it(url):
    storage = connect(url, create=True)
    study = new_study(storage)
    with transaction(storage):
        trial = storage.create_new_trial(study, running())
        storage.set_trial_state_values(trial, TrialState.COMPLETE, [0.25])
    assert optuna.load_study(study_name="s", storage=url).best_value == 0.25


COMPETITOR = """
import sys
from optuna.trial import TrialState
from nas.study.engine import connect, transaction
storage = connect(sys.argv[1], create=True)
sys.stdin.readline()
taken = []
while True:
    with transaction(storage):
        waiting = storage.get_all_trials(1, states=[TrialState.WAITING])
        if not waiting:
            break
        trial = waiting[0]
        assert storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
        taken.append(trial.number)
print(taken)
"""


def test_two_processes_never_take_the_same_trial(url):
    storage = connect(url, create=True)
    study = new_study(storage)
    with transaction(storage):
        for _ in range(60):
            storage.create_new_trial(study, create_trial(state=TrialState.WAITING))
    taken = run_together(COMPETITOR, [url, url])
    numbers = [number for output in taken for number in json.loads(output)]
    assert sorted(numbers) == list(range(60))


def test_several_processes_may_create_a_database_at_once(url):
    script = "import sys; from nas.study.engine import connect; sys.stdin.readline();"
    script += "print(connect(sys.argv[1], create=True).get_all_studies())"
    assert run_together(script, [url] * 3) == ["[]\n"] * 3
    assert "study.db" in os.listdir(database_file(url).parent)
    assert not [name for name in os.listdir(database_file(url).parent) if "new" in name]


def run_together(script, arguments):
    """Start one process an argument, let them go at the same moment; what each one printed."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, argument],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for argument in arguments
    ]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    results = []
    for process in processes:
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        results.append(output)
    return results


@pytest.mark.parametrize(
    "url",
    ["results/study.db", "nonsense://x", "sqlite://", "sqlite:///:memory:", "mysql", ":", ""],
)
def test_refuses_what_is_no_database(url):
    with pytest.raises(UsageError, match="--storage"):
        connect(url, create=True)


def test_a_missing_driver_is_named():
    with pytest.raises(UsageError, match=r"postgresql\+nosuch|psycopg"):
        connect("postgresql+psycopg://nobody@localhost/x", create=True)


def test_opening_makes_no_file(url, tmp_path):
    with pytest.raises(UsageError, match=r"no database .*study\.db"):
        connect(url)
    assert list(tmp_path.iterdir()) == []


def test_a_path_with_braces_and_spaces(tmp_path):
    path = tmp_path / "a {b} %20 ?c" / "study.db"
    url = URL.create("sqlite", database=str(path)).render_as_string()
    new_study(connect(url, create=True))
    assert path.is_file()
    assert database_file(url) == path
    assert len(connect(url).get_all_studies()) == 1


def test_another_programs_database_is_left_alone(url, tmp_path):
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE accounts (x)")
    with pytest.raises(UsageError, match="not a database of studies"):
        connect(f"sqlite:///{path}")
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("accounts",)]


def filled(url, trials=200):
    storage = connect(url, create=True)
    study = new_study(storage)
    with transaction(storage):
        for _ in range(trials):
            storage.create_new_trial(study, running(architecture="x" * 300))
    storage.engine.dispose()
    return study


def test_a_damaged_header_is_said_in_one_line(url):
    filled(url, 1)
    with open(database_file(url), "r+b") as file:
        file.write(b"\xff" * 100)
    with pytest.raises(NasError, match=r"study\.db: the database is damaged; .*recover") as raised:
        connect(url)
    assert "\n" not in str(raised.value)


def test_damage_in_the_middle_is_found_by_the_check(url):
    filled(url)
    with open(database_file(url), "r+b") as file:
        file.seek(os.path.getsize(database_file(url)) - 4 * 4096)
        file.write(b"\xff" * 8192)
    storage = connect(url)  # what opening reads is sound
    with pytest.raises(NasError, match="the database is damaged"):
        check(storage)


def test_a_sound_database_passes_the_check(url):
    filled(url)
    check(connect(url))


def test_a_full_database_loses_nothing_and_goes_on_when_there_is_room(url):
    study = filled(url)
    storage = connect(url)
    event.listen(storage.engine, "connect", limit_pages)  # a real limit of SQLite itself
    with storage.engine.connect() as connection:
        connection.invalidate()
    done = 0

    def record():
        with transaction(storage):
            trial = storage.create_new_trial(study, running(architecture="y" * 3000))
            storage.set_trial_intermediate_value(trial, 1, 0.5)

    with pytest.raises(NasError, match="the disk is full") as raised:  # noqa: PT012
        for _ in range(2000):
            record()
            done += 1
    assert "\n" not in str(raised.value)
    assert "nas resume" in str(raised.value)
    assert done > 0
    again = connect(url)
    check(again)
    trials = again.get_all_trials(study)
    assert len(trials) == 200 + done
    assert all(trial.intermediate_values == {1: 0.5} for trial in trials[200:])
    with transaction(again):
        assert again.get_trial(again.create_new_trial(study, running())).number == 200 + done


def limit_pages(connection, record):
    connection.execute("PRAGMA max_page_count = 200")


FILL = """
import sys
from optuna.trial import TrialState, create_trial
from nas.errors import NasError
from nas.study.engine import connect, transaction
if sys.argv[2:]:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    storage = connect(sys.argv[1])
    for done in range(2000):
        with transaction(storage):
            key = storage.create_new_trial(1, create_trial(state=TrialState.RUNNING,
                                           user_attrs={"architecture": "y" * 3000}))
            storage.set_trial_intermediate_value(key, 1, 0.5)
except NasError as error:
    print(done, error)
"""


def fill_until_refused(url, *limit):
    process = subprocess.run(
        [sys.executable, "-c", FILL, url, *map(str, limit)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parents[2],
    )
    assert process.returncode == 0, process.stderr
    done, message = process.stdout.strip().split(" ", 1)
    return int(done), message


def holds_what_was_recorded(url, study, done):
    storage = connect(url)
    check(storage)
    trials = storage.get_all_trials(study)
    assert len(trials) == 200 + done
    assert all(trial.intermediate_values == {1: 0.5} for trial in trials[200:])
    with transaction(storage):
        storage.create_new_trial(study, running())


def test_a_limit_on_file_sizes_loses_nothing(url):
    study = filled(url)
    done, message = fill_until_refused(url, 1_000_000)
    assert "the disk is full or refuses to be written" in message
    assert done > 0
    holds_what_was_recorded(url, study, done)


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    options = ["-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if mount is None or subprocess.run([mount, *options], capture_output=True).returncode:
        pytest.skip("mounting a file system needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_file_system_loses_nothing(small_disk):
    url = f"sqlite:///{small_disk}/study.db"
    study = filled(url)
    done, message = fill_until_refused(url)
    assert "the disk is full or refuses to be written" in message
    assert done > 0
    saved = shutil.copytree(small_disk, small_disk.parent / "elsewhere")
    holds_what_was_recorded(f"sqlite:///{saved}/study.db", study, done)


def test_no_room_to_create(small_disk):
    (small_disk / "filler").write_bytes(b"x" * (2 * 2**20 - 40 * 1024))
    with pytest.raises(NasError, match=r"study\.db.*full"):
        connect(f"sqlite:///{small_disk}/study.db", create=True)
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NasError, match=r"cannot be opened or written .*--storage"):
        connect(f"sqlite:///{tmp_path}/file/study.db", create=True)


@pytest.mark.skipif(not Path("/proc/sys").is_dir(), reason="Linux only")
def test_a_folder_that_refuses_files():
    with pytest.raises(NasError, match=r"cannot be opened or written .*--storage"):
        connect("sqlite:////proc/sys/study.db", create=True)


def test_a_database_that_may_only_be_read(url):
    study = filled(url, 1)
    connection = sqlite3.connect(f"file:{database_file(url)}?mode=ro", uri=True)
    connection.close()
    storage = connect(url)
    event.listen(storage.engine, "connect", lambda c, r: c.execute("PRAGMA query_only=1"))
    with storage.engine.connect() as connection:
        connection.invalidate()
    with pytest.raises(NasError, match="cannot be opened or written"), transaction(storage):
        storage.create_new_trial(study, running())


KILLED = """
import os, signal, sys
from sqlalchemy import URL, event
from optuna.trial import TrialState, create_trial
from nas.study.engine import connect, transaction
storage = connect(sys.argv[1])
with transaction(storage):
    key = storage.create_new_trial(1, create_trial(state=TrialState.RUNNING))
    storage.set_trial_intermediate_value(key, 1, 0.5)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_before_the_commit_leaves_nothing(url):
    study = filled(url, 1)
    command = [sys.executable, "-c", KILLED, url]
    process = subprocess.run(command, cwd=Path(__file__).parents[2], timeout=60)
    assert process.returncode == -signal.SIGKILL
    storage = connect(url)
    assert len(storage.get_all_trials(study)) == 1
    with transaction(storage):  # and the lock is free
        storage.create_new_trial(study, running())
