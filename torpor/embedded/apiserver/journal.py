"""Durable writes: one SQLite file, one writer, one transaction for everything that waits.

Rows that are appended during one turn of the event loop are committed together at its end, on the loop itself. That is
deliberate: with WAL and `synchronous=NORMAL` a commit is one `write` to the page cache, 10 us for a typical object.
Handing it to a thread measured 130 us on an idle loop and, worse, *seconds* on a busy one, because a thread that needs
the interpreter lock starves beside a loop that keeps taking it back; a cold start makes eight writes in a row. What
does wait for the disk, copying the WAL back into the database and beginning it anew, runs in a thread with a connection
of its own when nothing has been written for a moment.

Such a commit survives the death of the process, `kill -9` included; a power cut may lose the last moments but never
tears the file. A batch that fails is tried again row by row: a large object that no longer fits must not take a
deletion down with it. A row that fails has changed nothing.

The row is (collection, namespace, name) -> (version, JSON). A deletion leaves an empty row behind, which keeps the
highest version handed out; `open` sweeps those up. A second process on the same directory is refused by a file lock,
which the kernel drops when its holder dies.
"""

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from kncore.errors import ConfigError, KnError

__all__ = ["Journal", "JournalError", "Row", "Statistics"]

CHECKPOINT_PAGES = 1000
"""WAL pages (4 KiB) that make a checkpoint at the next quiet moment worth while; SQLite's own default."""
FORCED_CHECKPOINT_PAGES = 16_000
"""WAL pages after which a checkpoint does not wait for a quiet moment; writes wait for it instead, some 100 ms."""
QUIET = 0.25
"""Seconds without a write that count as a quiet moment."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS objects (
    collection TEXT NOT NULL,
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    value BLOB,
    PRIMARY KEY (collection, namespace, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
"""
_FORMAT = 1
"""`PRAGMA user_version` of the layout above."""

_UPSERT = (
    "INSERT INTO objects (collection, namespace, name, version, value) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT DO UPDATE SET version = excluded.version, value = excluded.value"
)

Row = tuple[str, str, str, int, bytes | None]
"""Collection, namespace (empty for cluster scope), name, version, JSON (None: deleted)."""


class JournalError(KnError):
    """A row that could not be written; `full` when there was no room for it."""

    def __init__(self, message: str, *, full: bool) -> None:
        super().__init__(message)
        self.full = full


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Counters since the start."""

    rows: int
    commits: int
    failures: int
    waiting: int
    """Rows appended and not yet answered."""


Done = Callable[[JournalError | None], None]


class Journal:
    """The SQLite file of one state directory.

    Args:
        directory: made if missing, readable by its owner only: objects include Secrets.
        max_pages: bound on the size of the file in pages of 4 KiB; None is SQLite's own.
        on_trouble: called with the reason when a write fails after others had not, and with an empty text when one
            succeeds again. On a disk that is nearly full the two alternate: small writes still fit.
    """

    def __init__(
        self, directory: Path, *, max_pages: int | None = None, on_trouble: Callable[[str], None] = lambda why: None
    ) -> None:
        self._on_trouble = on_trouble
        self._troubled = False
        self._directory = directory
        self._path = directory / "objects.sqlite"
        self._max_pages = max_pages
        self._batch: list[tuple[Row, Done]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._db: sqlite3.Connection | None = None
        self._lock_file: int | None = None
        self._quiet: asyncio.TimerHandle | None = None
        self._checkpointing: asyncio.Future[int] | None = None
        self._pages = 0  # written to the WAL since the last checkpoint, estimated
        self._rows = self._commits = self._failures = 0

    async def open(self) -> tuple[int, list[Row]]:
        """Lock the directory and open the file: the highest version ever written, and all rows in order of version.

        Raises:
            ConfigError: another process holds the directory, or the file cannot be used.
        """
        self._loop = asyncio.get_running_loop()
        try:
            return await self._loop.run_in_executor(None, self._open)
        except BaseException:
            self._release()
            raise

    async def close(self) -> None:
        """Write what was appended, merge the WAL and release the directory; may be called more than once."""
        if self._db is None or self._loop is None:
            return
        if self._quiet is not None:
            self._quiet.cancel()
        if self._checkpointing is not None:
            await asyncio.wait([self._checkpointing])
        self._flush()
        await self._loop.run_in_executor(None, self._release)

    def append(self, row: Row, done: Done) -> None:
        """Write a row; `done` is called on the loop, in the order of appending, once it is safe or has failed."""
        if self._loop is None:
            raise RuntimeError("the journal is not open")
        if not self._batch:
            self._loop.call_soon(self._flush)
        self._batch.append((row, done))

    def statistics(self) -> Statistics:
        """What was written so far."""
        return Statistics(rows=self._rows, commits=self._commits, failures=self._failures, waiting=len(self._batch))

    # ------------------------------------------------------------------------------------------------ writing

    def _flush(self) -> None:
        """Commit all that was appended during this turn of the loop, then tell the callers."""
        if self._checkpointing is not None and self._pages >= FORCED_CHECKPOINT_PAGES:
            return  # the WAL must not grow for ever: only a checkpoint that nobody writes into can begin it anew
        batch, self._batch = self._batch, []
        if not batch:
            return
        rows = [row for row, _ in batch]
        error = self._write(rows)
        answers = [error] if len(rows) == 1 else [error and self._write([row]) for row in rows]
        for (_, done), answer in zip(batch, answers, strict=True):
            if answer is None:
                self._rows += 1
            else:
                self._failures += 1
            try:
                done(answer)
            except Exception as fault:  # this is the outermost frame of a callback; the others wait for theirs
                if self._loop is None:
                    raise
                self._loop.call_exception_handler({"message": "a change was not fully published", "exception": fault})
        trouble = next((str(answer) for answer in answers if answer is not None), "")
        if bool(trouble) != self._troubled and self._db is not None:
            self._troubled = bool(trouble)
            self._on_trouble(trouble)
        # an estimate is enough: each row touches a page or two, plus its size
        self._pages += sum(2 + len(row[4] or b"") // 4096 for row in rows)
        if self._pages >= CHECKPOINT_PAGES and self._loop is not None:
            if self._quiet is not None:
                self._quiet.cancel()
            wait = QUIET if self._pages < FORCED_CHECKPOINT_PAGES else 0.0
            self._quiet = self._loop.call_later(wait, self._start_checkpoint)

    def _write(self, rows: list[Row]) -> JournalError | None:
        db = self._db
        if db is None:
            return JournalError("the journal is closed", full=False)
        try:
            if len(rows) == 1:  # needs no explicit transaction, which saves two statements
                db.execute(_UPSERT, rows[0])
            else:
                db.execute("BEGIN IMMEDIATE")
                db.executemany(_UPSERT, rows)
                db.execute("COMMIT")
        except sqlite3.Error as error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            return JournalError(str(error), full=error.sqlite_errorcode == sqlite3.SQLITE_FULL)
        self._commits += 1
        return None

    # --------------------------------------------------------------------------------------------- checkpoints

    def _start_checkpoint(self) -> None:
        self._quiet = None
        if self._checkpointing is None and self._loop is not None:
            self._checkpointing = self._loop.run_in_executor(None, self._checkpoint)
            self._checkpointing.add_done_callback(self._checkpointed)

    def _checkpointed(self, checkpoint: "asyncio.Future[int]") -> None:
        self._checkpointing = None
        self._pages = checkpoint.result()
        if self._batch:
            self._flush()

    def _checkpoint(self) -> int:
        """In a thread: copy the WAL into the database; pages that are left in it because somebody wrote meanwhile.

        A failure (full disk) loses nothing, the WAL stays as it is.
        """
        with closing(sqlite3.connect(self._path, isolation_level=None)) as db, suppress(sqlite3.Error):
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("PRAGMA wal_autocheckpoint = 0")
            _, pages, copied = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if copied < pages:
                return int(pages)
            # The first write after a complete checkpoint begins the WAL anew and syncs its head: better here than on
            # the loop. One statement, so that the write lock is not held while this thread waits for the interpreter.
            db.execute("INSERT OR REPLACE INTO facts VALUES ('checkpoints', 1)")
        return 0

    # ---------------------------------------------------------------------------- opening and closing (a thread)

    def _open(self) -> tuple[int, list[Row]]:
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock()
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
            db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            self._db = db
            (found,) = db.execute("PRAGMA user_version").fetchone()
            if found not in (0, _FORMAT):
                raise ConfigError(
                    f"{self._path} was written by another version of torpor (format {found}, not {_FORMAT})"
                )
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("PRAGMA wal_autocheckpoint = 0")
            db.executescript(_SCHEMA)
            if found == 0:
                db.execute(f"PRAGMA user_version = {_FORMAT}")
            if self._max_pages is not None:
                db.execute(f"PRAGMA max_page_count = {self._max_pages:d}")
            return self._load(db)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(
                f"the state in {self._directory} cannot be used: {error}; choose another state directory, or remove "
                "this one to start afresh"
            ) from error

    def _lock(self) -> None:
        path = self._directory / "lock"
        self._lock_file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._lock_file, 32).decode(errors="replace").strip() or "unknown"
            raise ConfigError(
                f"the state directory {self._directory} is in use by another process (pid {holder}); stop it, or "
                "choose another state directory"
            ) from None
        os.ftruncate(self._lock_file, 0)
        os.write(self._lock_file, f"{os.getpid()}\n".encode())

    @staticmethod
    def _load(db: sqlite3.Connection) -> tuple[int, list[Row]]:
        (highest,) = db.execute(
            "SELECT max(coalesce((SELECT max(version) FROM objects), 0), "
            "coalesce((SELECT value FROM facts WHERE name = 'version'), 0))"
        ).fetchone()
        if db.execute("SELECT 1 FROM objects WHERE value IS NULL LIMIT 1").fetchone():
            try:
                db.executescript(
                    f"BEGIN; INSERT OR REPLACE INTO facts VALUES ('version', {highest:d}); "
                    "DELETE FROM objects WHERE value IS NULL; COMMIT;"
                )
            except sqlite3.OperationalError:  # a full disk must not stop us from reading; the rows can stay
                if db.in_transaction:
                    db.execute("ROLLBACK")
        query = "SELECT collection, namespace, name, version, value FROM objects WHERE value IS NOT NULL"
        return highest, db.execute(f"{query} ORDER BY version").fetchall()

    def _release(self) -> None:
        if self._db is not None:
            with suppress(sqlite3.Error):
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._db.close()
            self._db = None
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None
