"""Where the database is: a URL of libpq's kind, with two parameters of our own."""

from __future__ import annotations

import re
from typing import Final, final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import attrs

from trepid.errors import BrokerURLError

_SCHEMA: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,49}")


@final
@attrs.frozen
class Address:
    """What was in a URL.

    Attributes:
      conninfo: the URL for libpq, without our own parameters.
      shown: the URL for everybody to see: without user and password.
      schema: where our tables are.
      prepare_threshold: after how many uses a statement is prepared, or None for never.
    """

    conninfo: str = attrs.field(repr=False)
    shown: str
    schema: str = "trepid"
    prepare_threshold: int | None = 1

    @classmethod
    def of(cls, url: str) -> Address:
        """Read a URL.

        Raises:
          BrokerURLError: if it cannot be one.
        """
        try:
            parts = urlsplit(url)
        except ValueError:
            raise BrokerURLError("postgresql://...", "it cannot be read; see libpq's connection URIs") from None
        if parts.scheme not in ("postgresql", "postgres") or not url.startswith(f"{parts.scheme}://"):
            raise BrokerURLError("postgresql:...", "write postgresql://user@host:port/database")
        hosts = parts.netloc.rpartition("@")[2]
        where = f"postgresql://{hosts}{parts.path}"
        schema, threshold = "trepid", cls.prepare_threshold_of("1", where)
        passed: list[tuple[str, str]] = []
        shown: list[tuple[str, str]] = []
        for name, value in parse_qsl(parts.query, keep_blank_values=True):
            if name == "schema":
                schema = value
            elif name == "prepare_threshold":
                threshold = cls.prepare_threshold_of(value, where)
                shown.append((name, value))
            else:
                passed.append((name, value))
                if name in ("host", "hostaddr", "port", "dbname", "service", "sslmode"):
                    shown.append((name, value))
        if not _SCHEMA.fullmatch(schema):
            raise BrokerURLError(where, f"schema {schema!r} must match {_SCHEMA.pattern}")
        if schema != "trepid":
            shown.append(("schema", schema))
        # libpq decodes percent signs, but takes a plus for a plus.
        query = urlencode(passed, quote_via=quote)
        conninfo = f"postgresql://{parts.netloc}{parts.path}" + (f"?{query}" if query else "")
        where += f"?{urlencode(shown, quote_via=quote)}" if shown else ""
        return cls(conninfo, where, schema, threshold)

    @staticmethod
    def prepare_threshold_of(value: str, where: str) -> int | None:
        """Read the parameter of this name."""
        if value.lower() == "none":
            return None
        if not value.isdecimal():
            raise BrokerURLError(where, f"prepare_threshold must be a number or none, not {value!r}")
        return int(value)
