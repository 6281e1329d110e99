"""The lease of the live driver: one process at a time writes a study.

A lease names its owner. On the same machine a dead owner is recognised at once, without waiting:
the machine was started again, no process has its number, or the process that has it started at
another time. An owner on another machine is known only by its heartbeat. Every transaction of the
writer checks that the lease is still its own, so a driver that was suspended for an hour and
replaced meanwhile writes nothing when it wakes.
"""

import json
import os
import socket
import threading
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC
from pathlib import Path

from optuna.storages import RDBStorage
from sqlalchemy import Connection, delete, func, insert, select, update

from nas.errors import NasError
from nas.study.engine import transaction
from nas.study.tables import leases

BEAT_SECONDS = 10.0
"""Between two heartbeats."""

STALE_SECONDS = 60.0
"""Age of the heartbeat at which an owner on another machine counts as dead."""


@dataclass(frozen=True)
class Owner:
    """A process that can be told from every other.

    Args:
        host: Name of its machine.
        pid: Its number there.
        boot: Identifies the run of the operating system; "" where that is not known.
        namespace: In which process numbers are unique (containers on one machine have their own).
        started: When it started, in the clock ticks of that run.
    """

    host: str
    pid: int
    boot: str = ""
    namespace: str = ""
    started: str = ""

    @classmethod
    def current(cls) -> "Owner":
        """This process."""
        return cls(
            host=socket.gethostname(),
            pid=os.getpid(),
            boot=_read("/proc/sys/kernel/random/boot_id"),
            namespace=_namespace(),
            started=_start_time(os.getpid()) or "",
        )

    def alive(self, here: "Owner | None" = None) -> bool | None:
        """Whether it lives.

        Args:
            here: From where it is looked for; None: this process.

        Returns:
            None when it cannot be seen from there.
        """
        here = here or Owner.current()
        if (self.boot, self.namespace) == (here.boot, here.namespace) and (
            self.boot or self.host == here.host
        ):
            if self.boot:
                return _start_time(self.pid) == self.started
            return _exists(self.pid)
        if self.host == here.host and self.boot != here.boot:
            return False
        return None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Lease:
    """The right to write a study, held while the context lasts.

    Args:
        storage: The study's database.
        study_id: The study.
        study: Its name, for messages.

    Raises:
        NasError: On entering: another driver holds it and lives.
    """

    def __init__(self, storage: RDBStorage, study_id: int, study: str) -> None:
        self._storage = storage
        self._study_id = study_id
        self._study = study
        self._token = uuid.uuid4().hex
        self._released = threading.Event()
        self._beating: threading.Thread | None = None

    def __enter__(self) -> "Lease":
        with transaction(self._storage) as connection:
            row = connection.execute(
                select(leases).where(leases.c.study_id == self._study_id).with_for_update()
            ).first()
            if row is not None:
                owner = Owner(**json.loads(row.owner))
                alive = owner.alive()
                age = _now(connection) - row.heartbeat
                if alive or (alive is None and age < STALE_SECONDS):
                    raise NasError(
                        f"study {self._study} is being run by {owner} (last sign of life "
                        f"{max(0, age):.0f} s ago): wait for it, or stop it"
                    )
                connection.execute(delete(leases).where(leases.c.study_id == self._study_id))
            connection.execute(
                insert(leases).values(
                    study_id=self._study_id,
                    token=self._token,
                    owner=json.dumps(asdict(Owner.current())),
                    heartbeat=_now(connection),
                )
            )
        self._released.clear()
        self._beating = threading.Thread(target=self._beat, name="nas-lease", daemon=True)
        self._beating.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._released.set()
        if self._beating is not None:
            self._beating.join()
        # On a full disk it cannot be given back; its dead owner will be recognised all the same.
        with suppress(NasError), transaction(self._storage) as connection:
            connection.execute(delete(leases).where(*self._mine))

    def require(self, connection: Connection) -> None:
        """Make sure, in a transaction that writes, that the lease is still held.

        Raises:
            NasError: Another driver has taken it.
        """
        row = connection.execute(
            select(leases).where(leases.c.study_id == self._study_id).with_for_update()
        ).first()
        if row is None or row.token != self._token:
            taker = Owner(**json.loads(row.owner)) if row is not None else "someone"
            raise NasError(
                f"study {self._study} was taken over by {taker} while this process was "
                "suspended or cut off: it goes on there"
            )

    @property
    def _mine(self) -> tuple:
        return (leases.c.study_id == self._study_id, leases.c.token == self._token)

    def _beat(self) -> None:
        while not self._released.wait(BEAT_SECONDS):
            try:
                with transaction(self._storage) as connection:
                    connection.execute(
                        update(leases).where(*self._mine).values(heartbeat=_now(connection))
                    )
            except NasError:
                # A full disk or a lost network: the driver's own next write says so to the
                # person; until then a beat less harms nobody.
                continue


def holder(storage: RDBStorage, study_id: int) -> Owner | None:
    """Who runs a study at this moment, as far as can be seen from here; None: nobody."""
    with storage.engine.connect() as connection:
        row = connection.execute(select(leases).where(leases.c.study_id == study_id)).first()
        if row is None:
            return None
        owner = Owner(**json.loads(row.owner))
        alive = owner.alive()
        stale = _now(connection) - row.heartbeat >= STALE_SECONDS
    return owner if alive or (alive is None and not stale) else None


def _now(connection: Connection) -> float:
    """The database's clock: that of this machine may differ from the other drivers' machines'."""
    now = connection.execute(select(func.now())).scalar_one()
    # SQLite's is in UTC without saying so.
    return (now if now.tzinfo else now.replace(tzinfo=UTC)).timestamp()


def _start_time(pid: int) -> str | None:
    """When a process of this machine started; None when there is none, or only its remains."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name in parentheses may itself contain spaces and parentheses: fields 3, ... follow it.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return ""
