"""The files: which there are, where their links lead, and a store that fails for some of them on purpose."""

from __future__ import annotations

import hashlib
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import attrs

_MADE_BY_TOOLS = {"build", "dist", "node_modules", "__pycache__"}
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)")


@attrs.frozen
class File:
    """A file, and a short text that says which version of it: another size or date makes another version."""

    path: Path
    version: str


def text_files(top: Path) -> Iterator[File]:
    """Find the text files below a folder, but for hidden folders and those that tools make."""
    for folder, below, names in os.walk(top):
        below[:] = sorted(name for name in below if name[0] != "." and name not in _MADE_BY_TOOLS)
        for path in (Path(folder, name) for name in sorted(names)):
            if path.is_file() and _is_text(path):
                found = path.stat()
                version = f"{path} {found.st_size} {found.st_mtime_ns}"
                yield File(path, hashlib.sha256(version.encode()).hexdigest()[:12])


def _is_text(path: Path) -> bool:
    try:
        str(path).encode()  # A name that is not UTF-8 cannot be written into a job.
        with path.open("rb") as file:
            return b"\0" not in file.read(4096)
    except (OSError, UnicodeEncodeError):
        return False


def links_of(path: Path, text: str) -> list[str]:
    """Find where the links of a Markdown file lead.  What is inside of code is no link."""
    return _LINK.findall(_CODE.sub("", text)) if path.suffix == ".md" else []


def is_broken(path: Path, link: str) -> bool:
    """Tell whether a link in the file at *path* is a relative one to a file that is not there."""
    target = unquote(re.split(r"[?#]", link, maxsplit=1)[0])
    elsewhere = not target or target.startswith("/") or re.match(r"[\w+.-]+:", target)
    return not elsewhere and not path.parent.joinpath(target).exists()


@attrs.frozen
class Store:
    """Where the files come from.  Asked for the first time, it fails for a fraction of them, always the same ones."""

    fail_fraction: float

    def fails_for(self, file: File) -> bool:
        """Tell whether the first attempt to read this file fails."""
        return zlib.crc32(str(file.path).encode()) < self.fail_fraction * 2**32

    def read(self, file: File, attempt: int) -> bytes:
        """Read a file, or raise an OSError."""
        if attempt == 1 and self.fails_for(file):
            raise ConnectionResetError("the store hung up, on purpose")
        return file.path.read_bytes()
