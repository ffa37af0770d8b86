"""Where the servers are, and how to log in: what a URL says."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from typing import Final, final
from urllib.parse import parse_qsl, unquote

import attrs

from trepid.wire.nats.login import Login

PORT: Final = 4222
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+)(?::([0-9]{1,5}))?")
_PARAMETERS: Final = ("prefix", "replicas", "nkey", "creds", "cafile", "certfile", "keyfile", "tls_first")


class AddressError(ValueError):
    """A URL that names no servers; its text says why, without credentials."""


@final
@attrs.frozen
class Address:
    """What a URL says.

    Attributes:
      hosts: (host, port) of each server, in the order in which they are tried.
      login: who we are.
      secure: whether TLS is insisted on.
      tls_first: whether TLS begins with the first byte, before the server has said anything.
      cafile, certfile, keyfile: files of certificates, for TLS.
      parameters: what is left, for the engine: ``prefix`` and ``replicas``.
    """

    hosts: tuple[tuple[str, int], ...]
    login: Login = attrs.field(factory=Login)
    secure: bool = False
    tls_first: bool = False
    cafile: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    parameters: Mapping[str, str] = attrs.field(factory=dict)

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read a URL such as ``nats://user:password@one:4222,two:4222?prefix=app``.

        Raises:
          AddressError: if it is none.
        """
        scheme, _, rest = url.partition("://")
        if scheme not in ("nats", "tls"):
            raise AddressError("it begins with neither nats:// nor tls://")
        # The whole may be one URL with several hosts, or several URLs; who logs in is said once.
        rest, _, query = rest.replace(",nats://", ",").replace(",tls://", ",").partition("?")
        authority, _, path = rest.partition("/")
        if "@" in query or "@" in path:
            raise AddressError("write / and ? in a password as %2F and %3F")
        if path.strip("/"):
            raise AddressError("nothing may stand between the servers and the question mark")
        parameters = dict(parse_qsl(query, keep_blank_values=True))
        for name in parameters:
            if name not in _PARAMETERS:
                raise AddressError(f"unknown parameter {name!r}; known are {', '.join(_PARAMETERS)}")
        hosts: list[tuple[str, int]] = []
        secret = ""
        for part in authority.split(",") if "@" not in authority else _parts(authority):
            credentials, at, host = part.rpartition("@")
            secret = credentials if at else secret
            hosts.append(_host(host))
        if not hosts:
            raise AddressError("no server is named")
        take = parameters.pop
        return cls(
            tuple(hosts),
            _login(secret, take("nkey", None), take("creds", None)),
            secure=scheme == "tls",
            tls_first=_yes(take("tls_first", "no")),
            cafile=take("cafile", None),
            certfile=take("certfile", None),
            keyfile=take("keyfile", None),
            parameters=parameters,
        )

    def __str__(self) -> str:
        hosts = ",".join(f"{host}:{port}" for host, port in self.hosts)
        return f"{'tls' if self.secure else 'nats'}://{hosts}"

    def context(self) -> ssl.SSLContext:
        """Return a context for TLS, which verifies the server.

        Raises:
          OSError: if a file cannot be read, or holds no certificate.
        """
        context = ssl.create_default_context(cafile=self.cafile)
        if self.certfile is not None:
            context.load_cert_chain(self.certfile, self.keyfile)
        return context


def _parts(authority: str) -> list[str]:
    # A password may hold a comma; everything up to the last @ of a part belongs to who logs in.
    credentials, _, hosts = authority.rpartition("@")
    first, *others = hosts.split(",")
    return [f"{credentials}@{first}", *others]


def _host(text: str) -> tuple[str, int]:
    found = _HOST.fullmatch(text)
    if found is None:
        raise AddressError("a server is written host or host:port")
    port = int(found[2] or PORT)
    if not 0 < port < 65_536:
        raise AddressError(f"no port: {port}")
    return found[1].strip("[]"), port


def _login(secret: str, seed_file: str | None, credentials_file: str | None) -> Login:
    user, colon, password = secret.partition(":")
    if sum(map(bool, (secret, seed_file, credentials_file))) > 1:
        raise AddressError("say once who logs in: by password or token, by nkey, or by creds")
    if secret and not colon:
        return Login(token=unquote(user))
    return Login(
        user=unquote(user) if secret else None,
        password=unquote(password) if secret else None,
        seed_file=seed_file,
        credentials_file=credentials_file,
    )


def _yes(text: str) -> bool:
    if text not in ("yes", "no"):
        raise AddressError("tls_first is yes or no")
    return text == "yes"


def announced(urls: object) -> list[tuple[str, int]]:
    """Return the servers that a server's INFO names; what makes no sense is left out."""
    hosts: list[tuple[str, int]] = []
    for url in urls if isinstance(urls, list) else ():
        try:
            hosts.append(_host(str(url)))
        except AddressError:
            continue
    return hosts
