"""Where a Redis is: what a URL says."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Literal, TypeAlias, final
from urllib.parse import parse_qsl, unquote

import attrs

from trepid.errors import BrokerURLError
from trepid.wire.endpoint import Endpoint

Kind: TypeAlias = Literal["server", "socket", "sentinel", "cluster"]

_PORTS: Final[Mapping[Kind, int]] = {"server": 6379, "socket": 0, "sentinel": 26379, "cluster": 6379}
_SCHEMES: Final[Mapping[str, tuple[Kind, bool]]] = {
    "redis": ("server", False),
    "rediss": ("server", True),
    "unix": ("socket", False),
    "redis+unix": ("socket", False),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}
SCHEMES: Final = tuple(_SCHEMES)
"""The schemes of the URLs that name a Redis."""

_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\s:,/@\[\]]+)(?::([0-9]{1,5}))?")
_SHAPES: Final[Mapping[Kind, str]] = {
    "server": "{}://user:password@host:6379/0",
    "socket": "{}:///path/of/redis.sock?db=0",
    "sentinel": "{}://host:26379,host:26379/service/0",
    "cluster": "{}://host:6379,host:6379",
}
_OPTIONS: Final = frozenset(
    {"db", "prefix", "ssl_ca_certs", "allow_eviction", "sentinel_username", "sentinel_password"}
)


@final
@attrs.frozen
class Login:
    """Who we are; never shown."""

    username: str | None = None
    password: str | None = attrs.field(default=None, repr=False)

    @property
    def words(self) -> tuple[str, ...]:
        """What ``HELLO`` is told, if anything."""
        if self.password is None and self.username is None:
            return ()
        # Who has a name and no password is not to become somebody else in silence; a user may need none.
        return ("AUTH", self.username or "default", self.password or "")


@final
@attrs.frozen
class RedisAddress:
    """Where a Redis is.

    Attributes:
      kind: one server, its Unix socket, sentinels that know one, or a cluster.
      hosts: host and port of each.
      tls: whether streams are encrypted.
      path: of the Unix socket.
      service: what the sentinels call the server.
      database: the number of the database.
      login, sentinel_login: who we are, to servers and to sentinels.
      ca_certs: a file of certificates to trust instead of the system's.
      prefix: what all keys begin with.
      allow_eviction: whether a server may be used that may forget our keys.
      scheme: as it was written.
    """

    kind: Kind
    hosts: tuple[tuple[str, int], ...]
    tls: bool = False
    path: str | None = None
    service: str = ""
    database: int = 0
    login: Login = attrs.field(factory=Login, repr=False)
    sentinel_login: Login = attrs.field(factory=Login, repr=False)
    ca_certs: str | None = None
    prefix: str = "trepid"
    allow_eviction: bool = False
    scheme: str = "redis"

    def __str__(self) -> str:
        if self.path is not None:
            return f"{self.scheme}://{self.path}" + (f"?db={self.database}" if self.database else "")
        hosts = ",".join(f"{host}:{port}" for host, port in self.hosts)
        service = f"/{self.service}" if self.service else ""
        return f"{self.scheme}://{hosts}{service}" + (f"/{self.database}" if self.database else "")

    def endpoint(self, host: str = "", port: int = 0) -> Endpoint:
        """Return where to connect to: the named host, or the first."""
        if self.path is not None:
            return Endpoint(str(self), path=self.path)
        if not host:
            host, port = self.hosts[0]
        name = f"{'rediss' if self.tls else 'redis'}://{host}:{port}"
        return Endpoint(name, host.strip("[]"), port, tls=self._context() if self.tls else None)

    def _context(self) -> ssl.SSLContext:
        # The file was there when the URL was read; who has taken it away since hears of it from ssl.
        return ssl.create_default_context(cafile=self.ca_certs)


def parse(url: str) -> RedisAddress:
    """Read a URL.

    Raises:
      BrokerURLError: if it says too little, or what cannot be; without anything that may be secret.
    """
    scheme, _, rest = url.partition(":")
    scheme, shown = scheme.lower(), _shown(url)
    if scheme not in _SCHEMES:
        raise BrokerURLError(shown, f"no Redis; write {_SHAPES['server'].format('redis')}")
    kind, tls = _SCHEMES[scheme]
    shape = _SHAPES[kind].format(scheme)

    def wrong(reason: str) -> BrokerURLError:
        return BrokerURLError(shown, f"{reason}; write {shape}")

    if not rest.startswith("//"):
        raise wrong("two slashes are missing")
    rest, query = _queried(rest[2:])
    options = _options(query, shown)
    authority, slash, path = _split(rest)
    user, at, hosts = authority.rpartition("@")
    login = _login(user) if at else Login()
    if kind == "socket":
        if hosts or not path:
            raise wrong("the path of a socket is absolute, after three slashes")
        places: tuple[tuple[str, int], ...] = ()
        socket: str | None = slash + unquote(path)
        parts: list[str] = []
    else:
        places = tuple(_host(each, _PORTS[kind], wrong) for each in hosts.split(","))
        socket = None
        if kind == "server" and "," in hosts:
            raise wrong("several hosts are redis+sentinel: or redis+cluster:")
        parts = path.split("/") if path else []
    service = ""
    if kind == "sentinel":
        if not parts or not parts[0]:
            raise wrong("the name of the service is missing")
        service = unquote(parts.pop(0))
    database = _database(parts, options, wrong)
    if kind == "cluster" and database:
        raise wrong("a cluster has the database 0 only")
    return RedisAddress(
        kind,
        places,
        tls,
        socket,
        service,
        database,
        login,
        Login(options.get("sentinel_username"), options.get("sentinel_password")),
        _ca_certs(options, tls, shown),
        _prefix(options, shown),
        options.get("allow_eviction", "0") not in ("0", "", "no", "false"),
        scheme,
    )


def _options(query: str, shown: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := options.keys() - _OPTIONS:
        names = ", ".join(sorted(_OPTIONS))
        # With an @ behind it, what looks like an option may be a part of a password.
        which = "such option" if "@" in query else f"option {min(unknown)!r}"
        raise BrokerURLError(shown, f"there is no {which}; known are {names}")
    return options


def _shown(url: str) -> str:
    masked = re.sub(r"^([A-Za-z][A-Za-z0-9+.-]*://)?.*@", r"\1***@", url, flags=re.DOTALL)
    return re.sub(r"([?&][^=&]*(?:pass|user)[^=&]*=)[^&]*", r"\1***", masked, flags=re.IGNORECASE)


def _queried(rest: str) -> tuple[str, str]:
    # A password may hold a question mark, too: then no option comes between that and the @.
    mark, at = rest.find("?"), rest.rfind("@")
    if 0 <= mark < at and "=" not in rest[mark:at]:
        mark = rest.find("?", at)
    return (rest, "") if mark < 0 else (rest[:mark], rest[mark + 1 :])


def _split(rest: str) -> tuple[str, str, str]:
    # A password may hold a slash, whatever the standard says: the authority ends at the first slash after the last @.
    at = rest.rfind("@")
    slash = rest.find("/", at + 1)
    if slash < 0:
        return rest, "", ""
    return rest[:slash], "/", rest[slash + 1 :]


def _login(user: str) -> Login:
    name, colon, password = user.partition(":")
    return Login(unquote(name) or None, unquote(password) if colon else None)


def _host(text: str, port: int, wrong: Callable[[str], BrokerURLError]) -> tuple[str, int]:
    found = _HOST.fullmatch(text)
    if found is None:
        raise wrong("a host is missing" if not text else "a host cannot be read")
    number = int(found[2] or port)
    if not 0 < number < 65536:
        raise wrong(f"{number} is no port")
    return found[1], number


def _database(parts: list[str], options: Mapping[str, str], wrong: Callable[[str], BrokerURLError]) -> int:
    texts = [part for part in parts if part] + ([options["db"]] if "db" in options else [])
    if len(texts) > 1:
        raise wrong("the database is given twice" if "db" in options else "there is too much after the host")
    if not texts:
        return 0
    if re.fullmatch("[0-9]{1,6}", texts[0]) is None:
        raise wrong("the database is a number")
    return int(texts[0])


def _ca_certs(options: Mapping[str, str], tls: bool, shown: str) -> str | None:  # noqa: FBT001 - private, and called once
    path = options.get("ssl_ca_certs")
    if path is None:
        return None
    if not tls:
        raise BrokerURLError(shown, "ssl_ca_certs is for TLS; write rediss:// instead of redis://")
    if not Path(path).is_file():
        raise BrokerURLError(shown, f"ssl_ca_certs={path}: there is no such file")
    try:
        ssl.create_default_context(cafile=path)
    except ssl.SSLError:
        raise BrokerURLError(shown, f"ssl_ca_certs={path}: it holds no certificate") from None
    return path


def _prefix(options: Mapping[str, str], shown: str) -> str:
    prefix = options.get("prefix", "trepid")
    if re.fullmatch(r"[A-Za-z0-9_.:-]{1,100}", prefix) is None:
        raise BrokerURLError(shown, "prefix is 1 to 100 of letters, digits, and _ . : -")
    return prefix
