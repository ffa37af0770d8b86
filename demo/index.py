"""The index: what the jobs find out, in a SQLite file that threads and processes write at the same time."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections import Counter
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

import attrs

from demo.files import File, is_broken, links_of

_WORD = re.compile(r"[^\W\d_]+")
_TABLE = """CREATE TABLE IF NOT EXISTS files (
    path TEXT PRIMARY KEY, version TEXT, checksum TEXT, bytes INTEGER, words INTEGER,
    counts TEXT,  -- JSON: {"word": how often}
    links TEXT    -- JSON: ["target"]
)"""
_TOTALS = "SELECT count(*), total(bytes), total(words), total(json_array_length(links)) FROM files"
_LINKS = "SELECT files.path, link.value FROM files, json_each(links) AS link ORDER BY files.path, link.id"
_LARGEST = "SELECT path, bytes FROM files ORDER BY bytes DESC, path LIMIT 5"
_FREQUENT = """SELECT word.key, sum(word.value) AS count FROM files, json_each(counts) AS word
    WHERE length(word.key) > 4 GROUP BY word.key ORDER BY count DESC, word.key LIMIT 8"""


@attrs.frozen
class Summary:
    """What the index says about all of its files."""

    files: int
    bytes: int
    words: int
    links: int
    broken_links: list[tuple[str, str]]
    largest: list[tuple[str, int]]
    frequent: list[tuple[str, int]]


@attrs.frozen
class Index:
    """The index at a path.  It is a value, so that it can be the argument of a job; its methods block."""

    path: Path

    @contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection]:
        connection = sqlite3.connect(self.path, timeout=30)
        try:
            connection.execute("PRAGMA synchronous = OFF")  # What is lost with the power can be computed again.
            with connection:
                yield connection
        finally:
            connection.close()

    def create(self) -> None:
        """Make the file, unless it is there."""
        with self._transaction() as connection:
            connection.execute(_TABLE)

    def outdated(self, found: Iterable[File]) -> list[File]:
        """Return those files that it has not, or not in this version, and forget whatever was not found."""
        there = {file.path: file for file in found}
        with self._transaction() as connection:
            known = {
                File(Path(path), version) for path, version in connection.execute("SELECT path, version FROM files")
            }
            gone = [(str(file.path),) for file in known if file.path not in there]
            connection.executemany("DELETE FROM files WHERE path = ?", gone)
        return [file for file in there.values() if file not in known]

    def has(self, file: File) -> bool:
        """Tell whether it has this version of a file."""
        with self._transaction() as connection:
            query = "SELECT 1 FROM files WHERE path = ? AND version = ?"
            return connection.execute(query, (str(file.path), file.version)).fetchone() is not None

    def take_up(self, file: File, text: str) -> None:
        """Index a file, in the place of an older version.  Doing it twice is as good as once."""
        counts, content = Counter(word.casefold() for word in _WORD.findall(text)), text.encode()
        facts = (hashlib.sha256(content).hexdigest(), len(content), counts.total())
        row = (str(file.path), file.version, *facts, json.dumps(counts), json.dumps(links_of(file.path, text)))
        with self._transaction() as connection:
            connection.execute("REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def summary(self) -> Summary:
        """Add it all up."""
        with self._transaction() as connection:
            files, size, words, links = map(int, connection.execute(_TOTALS).fetchone())
            broken = [(path, link) for path, link in connection.execute(_LINKS) if is_broken(Path(path), link)]
            largest = connection.execute(_LARGEST).fetchall()
            return Summary(files, size, words, links, broken, largest, connection.execute(_FREQUENT).fetchall())
