import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from sqlalchemy import insert, select, update

from nas.errors import NasError
from nas.study.engine import connect, transaction
from nas.study.lease import STALE_SECONDS, Lease, Owner, _now, holder
from nas.study.tables import leases, metadata

ROOT = Path(__file__).parents[2]


@pytest.fixture
def storage(tmp_path):
    storage = connect(f"sqlite:///{tmp_path}/study.db", create=True)
    with transaction(storage) as connection:
        metadata.create_all(connection)
    return storage


def rows(storage):
    with storage.engine.connect() as connection:
        return connection.execute(select(leases)).all()


def left_behind(storage, owner, age=0.0):
    """A lease as a driver leaves it that was killed."""
    with transaction(storage) as connection:
        connection.execute(
            insert(leases).values(
                study_id=1,
                token="another",
                owner=json.dumps(asdict(owner)),
                heartbeat=_now(connection) - age,
            )
        )


def dead_process():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19]
    owner = replace(Owner.current(), pid=process.pid, started=started)
    assert owner.alive() is True
    process.kill()
    return process, owner


def test_given_back_at_the_end(storage):
    with Lease(storage, 1, "s") as lease:
        assert holder(storage, 1) == Owner.current()
        with transaction(storage) as connection:
            lease.require(connection)
    assert rows(storage) == []
    assert holder(storage, 1) is None
    assert not [thread for thread in threading.enumerate() if thread.name == "nas-lease"]


def test_given_back_after_an_error(storage):
    with pytest.raises(KeyboardInterrupt), Lease(storage, 1, "s"):
        raise KeyboardInterrupt
    assert rows(storage) == []


def test_a_second_driver_is_refused_and_told_who_runs_it(storage):
    with Lease(storage, 1, "mine"):
        refusal = rf"study mine is being run by process {os.getpid()} on "
        with pytest.raises(NasError, match=refusal), Lease(storage, 1, "mine"):
            pass
        with Lease(storage, 2, "other"):  # another study of the same database
            pass
        assert holder(storage, 1) == Owner.current()
    with Lease(storage, 1, "mine"):
        pass


def test_a_killed_owner_is_recognised_at_once_even_before_it_is_buried(storage):
    process, owner = dead_process()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert Path(f"/proc/{process.pid}").exists()  # a zombie: nobody has waited for it
    assert owner.alive() is False
    left_behind(storage, owner)
    assert holder(storage, 1) is None
    with Lease(storage, 1, "s"):
        assert holder(storage, 1) == Owner.current()
    process.wait()
    assert owner.alive() is False


def test_a_process_number_used_again_is_not_the_owner():
    assert Owner.current().alive() is True
    assert replace(Owner.current(), started="1").alive() is False


def test_a_machine_started_again_has_no_living_owner():
    assert replace(Owner.current(), boot="an earlier one").alive() is False


@pytest.mark.parametrize(
    "elsewhere",
    [{"host": "another", "boot": "another"}, {"namespace": "pid:[1]"}],
    ids=["another machine", "another container"],
)
def test_an_owner_that_cannot_be_seen_is_judged_by_its_heartbeat(storage, elsewhere):
    owner = replace(Owner.current(), pid=1, **elsewhere)
    assert owner.alive() is None
    left_behind(storage, owner, age=STALE_SECONDS - 20)
    assert holder(storage, 1) == owner
    with pytest.raises(NasError, match="process 1 on"), Lease(storage, 1, "s"):
        pass
    with transaction(storage) as connection:
        late = _now(connection) - STALE_SECONDS - 1
        connection.execute(update(leases).values(heartbeat=late))
    assert holder(storage, 1) is None
    with Lease(storage, 1, "s"):
        pass


def test_without_a_boot_id_the_process_number_decides():
    here = Owner("mac", os.getpid())
    assert Owner("mac", os.getppid()).alive(here) is True
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert Owner("mac", process.pid).alive(here) is False
    assert Owner("another mac", os.getppid()).alive(here) is None


def test_who_was_taken_over_writes_nothing_more(storage):
    with Lease(storage, 1, "s") as lease:
        taker = replace(Owner.current(), pid=77, host="other")
        with transaction(storage) as connection:
            new = {"token": "taken", "owner": json.dumps(asdict(taker))}
            connection.execute(update(leases).values(**new))
        refusal = "taken over by process 77 on other"
        with pytest.raises(NasError, match=refusal), transaction(storage) as connection:
            lease.require(connection)
    assert [row.token for row in rows(storage)] == ["taken"]  # not ours to give back


def test_the_heartbeat_beats(storage, monkeypatch):
    monkeypatch.setattr("nas.study.lease.BEAT_SECONDS", 0.01)
    with Lease(storage, 1, "s"):
        with transaction(storage) as connection:
            connection.execute(update(leases).values(heartbeat=0.0))
        deadline = threading.Event()
        for _ in range(1000):
            if rows(storage)[0].heartbeat > 0:
                break
            deadline.wait(0.01)
        assert rows(storage)[0].heartbeat > 1.7e9


RACER = """
import sys
from nas.errors import NasError
from nas.study.engine import connect
from nas.study.lease import Lease
storage = connect(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
try:
    with Lease(storage, 1, "s"):
        print("got it", flush=True)
        sys.stdin.readline()
except NasError as error:
    print(error, flush=True)
"""


def test_of_several_processes_one_gets_it(storage):
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, storage.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for _ in range(4)
    ]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    said = {racer.pid: racer.stdout.readline() for racer in racers}
    (winner,) = [pid for pid, line in said.items() if line == "got it\n"]
    for pid, line in said.items():
        assert pid == winner or line.startswith(f"study s is being run by process {winner} on ")
    for racer in racers:
        if racer.pid == winner:
            racer.send_signal(signal.SIGKILL)
        racer.communicate(timeout=60)
    with Lease(storage, 1, "s"):  # the winner was killed: no waiting
        pass
