"""The database of a study: Optuna's storage on an engine that loses no commit.

SQLite as it comes defers `BEGIN` to the first write, so two processes can read the same row before
either locks it, and Optuna commits after every call, so a trial could be there without its
attributes. Here a writer's transactions begin with `BEGIN IMMEDIATE` in WAL mode with
`synchronous=FULL`, and `transaction` joins any number of Optuna's calls and our own statements
into one commit: a process killed at any moment leaves all of them or none.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import Connection, Engine, event
from sqlalchemy.dialects import plugins
from sqlalchemy.engine import URL, CreateEnginePlugin, ExceptionContext, make_url
from sqlalchemy.exc import ArgumentError, OperationalError

from nas.errors import NasError, UsageError
from nas.study.filesystem import NETWORK, filesystem_type

BUSY_SECONDS = 60
"""How long a statement waits for another process's transaction to end."""

_FAILURE = "nas_failure"


def connect(url: str, *, create: bool = False) -> RDBStorage:
    """Optuna's storage in a database.

    Args:
        url: A SQLAlchemy URL; `sqlite:///PATH` for a file.
        create: Make the file, its folder and Optuna's tables where they are missing.

    Raises:
        UsageError: The URL makes no sense, names no file or a file on a network disk.
        NasError: The database cannot be opened, written or read; one line says why.
    """
    parsed = _parse(url)
    # Optuna announces every study that it makes; the command line says so itself.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = database_file(url)
    if path is not None:
        kind = filesystem_type(path)
        if kind in NETWORK:
            raise UsageError(
                f"{path} is on a network disk ({kind}), where SQLite loses data: choose a local "
                "disk, or PostgreSQL, with --storage"
            )
        if create and not path.exists():
            _create_file(path)
        elif not path.exists():  # SQLite would make an empty one
            raise UsageError(f"there is no database {path}")
    storage = _storage(parsed, create=create and path is None)
    if storage.get_current_version() != _version(storage):
        raise NasError(
            f"{_place(parsed)}: written by another version of Optuna; try `optuna storage upgrade "
            f"--storage {parsed.render_as_string(hide_password=True)}`, or update Optuna"
        )
    return storage


_versions: list[str] = []


def _version(storage: RDBStorage) -> str:
    """The version of the tables that the installed Optuna writes; finding it takes 0.1 s."""
    if not _versions:
        _versions.append(storage.get_head_version())
    return _versions[0]


def database_file(url: str) -> Path | None:
    """The file of an SQLite URL, or None for another database."""
    parsed = _parse(url)
    if parsed.get_backend_name() != "sqlite":
        return None
    return Path(str(parsed.database))


@contextmanager
def transaction(storage: RDBStorage) -> Iterator[Connection]:
    """One transaction around Optuna's calls and our own statements, from this thread.

    Optuna's sessions join the connection's transaction, so what Optuna commits is a savepoint.

    Args:
        storage: As `connect` made it.

    Yields:
        The connection for our own statements.

    Raises:
        NasError: The database failed; nothing of the transaction was kept.
    """
    sessions = storage.scoped_session
    with (
        storage.engine.connect().execution_options(nas_begin="BEGIN IMMEDIATE") as connection,
        connection.begin(),
    ):
        connection.info.pop(_FAILURE, None)
        sessions.remove()
        sessions(bind=connection, join_transaction_mode="create_savepoint")
        try:
            yield connection
        except Exception as error:
            # When SQLite itself has rolled back, undoing the savepoint fails as well: what is
            # said is the cause, not the consequence.
            if (failure := connection.info.get(_FAILURE)) is not None and error is not failure:
                raise failure from error
            raise
        finally:
            sessions.registry.clear()


def check(storage: RDBStorage) -> None:
    """Read an SQLite database through once.

    Raises:
        NasError: It is damaged.
    """
    if storage.engine.dialect.name != "sqlite":
        return
    with storage.engine.connect() as connection:
        findings = connection.exec_driver_sql("PRAGMA quick_check(1)").scalars().all()
    if findings != ["ok"]:
        raise NasError(_damaged(_place(storage.engine.url)))


class _Plugin(CreateEnginePlugin):
    """Listeners of the engine that Optuna makes, in place before its first statement."""

    def __init__(self, url: URL, kwargs: dict[str, Any]) -> None:
        """SQLAlchemy's signature; nothing is taken from either."""

    def update_url(self, url: URL) -> URL:
        """The URL as it is."""
        return url

    def engine_created(self, engine: Engine) -> None:
        """Attach the listeners."""
        event.listen(engine, "handle_error", _explain)
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", _connected)
            event.listen(engine, "begin", _begin)


plugins.register("nas", __name__, "_Plugin")


def _connected(connection: Any, record: object) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("nas_begin", "BEGIN"))


def _create_file(path: Path) -> None:
    """Make a database under another name first: it is there with all of Optuna's tables or not."""
    temporary = path.with_name(f"{path.name}.new-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _storage(URL.create("sqlite", database=str(temporary)), create=True).engine.dispose()
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass  # another process was faster: its file is as good
        except OSError:  # a file system without links
            os.rename(temporary, path)
    except OSError as error:
        raise NasError(_unwritable(path, error.strerror)) from error
    finally:
        for suffix in ("", "-wal", "-shm"):
            with suppress(OSError):
                os.unlink(f"{temporary}{suffix}")


def _storage(url: URL, *, create: bool) -> RDBStorage:
    options: dict[str, Any] = {"plugins": ["nas"]}
    if url.get_backend_name() == "sqlite":
        options["connect_args"] = {"timeout": BUSY_SECONDS}
    try:
        return RDBStorage(
            # Optuna fills in a template: braces stand for themselves when doubled.
            url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}"),
            engine_kwargs=options,
            skip_compatibility_check=True,
            skip_table_creation=not create,
        )
    except (StorageInternalError, OperationalError) as error:
        raise UsageError(f"{_place(url)} is not a database of studies") from error
    except ImportError as error:
        raise UsageError(
            f"{url.drivername} needs a driver that is not installed "
            f"({' '.join(str(error).split())}); for PostgreSQL: pip install 'hybrid-nas[postgres]'"
        ) from error


def _explain(context: ExceptionContext) -> None:
    """Turn a failure of the disk or the database into one line that says what to do."""
    failure = _failure(context)
    if failure is None:
        return
    if context.connection is not None and not context.connection.invalidated:
        context.connection.info.setdefault(_FAILURE, failure)
    raise failure


def _failure(context: ExceptionContext) -> NasError | None:
    error = context.original_exception
    place = _place(context.engine.url) if context.engine is not None else "the database"
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
        return NasError(
            f"{place}: the disk is full or refuses to be written ({error}); free some space and "
            "`nas resume`: what was recorded is kept"
        )
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return NasError(_damaged(place))
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_AUTH")):
        return NasError(_unwritable(place, str(error)))
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return NasError(
            f"{place}: another program has kept it locked for {BUSY_SECONDS} s; stop that program"
        )
    if name:
        return None
    if isinstance(context.sqlalchemy_exception, OperationalError):
        return NasError(f"{place}: {str(error).strip().splitlines()[0]}")
    return None


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
        parsed.get_dialect()  # known to SQLAlchemy
    except ArgumentError:
        parsed = None
    if parsed is None or not re.match(r"\w+(\+\w+)?:", url):
        raise UsageError(
            f"--storage wants a database URL, such as sqlite:///results/NAME.db, not {url!r}"
        )
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise UsageError(
            f"--storage {url}: a study needs a file, such as sqlite:///results/NAME.db"
        )
    return parsed


def _place(url: URL) -> str:
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    return url.render_as_string(hide_password=True)


def _damaged(place: str) -> str:
    return (
        f"{place}: the database is damaged; put back a copy, or save what can be read: "
        f'sqlite3 {place} ".recover" | sqlite3 recovered.db'
    )


def _unwritable(place: str | Path, reason: str | None) -> str:
    return f"{place}: cannot be opened or written ({reason}); choose another place with --storage"
