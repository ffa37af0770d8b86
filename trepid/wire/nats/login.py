"""How a client says who it is: a token, a user and a password, or a key that signs what the server drew."""

from __future__ import annotations

import base64
import re
from typing import Any, Final, final

import attrs

from trepid.errors import BrokerRefusedError, UnsupportedError

_BLOCK: Final = re.compile(r"-----BEGIN ([A-Z ]+)-----\s*(\S+)\s*-+END", re.MULTILINE)
_SEED: Final = re.compile(r"S[A-Z][A-Z2-7]{56}")


@final
@attrs.frozen
class Login:
    """Who we are.

    Attributes:
      token: a secret that the server knows; or
      user, password: as above; or
      seed_file: a file with the seed of an nkey; or
      credentials_file: a ``.creds`` file: a JWT and the seed that proves it ours.
    """

    token: str | None = attrs.field(default=None, repr=False)
    user: str | None = attrs.field(default=None, repr=False)
    password: str | None = attrs.field(default=None, repr=False)
    seed_file: str | None = None
    credentials_file: str | None = None

    def options(self, nonce: str | None, broker: str) -> dict[str, Any]:
        """Return what CONNECT has to say, with the server's nonce signed where a key is used.

        Raises:
          BrokerRefusedError: if a file cannot be read or holds no key, or the server draws no nonce.
          UnsupportedError: if a key is used, and the library that signs is not installed.
        """
        if self.credentials_file is not None:
            text = _read(self.credentials_file, broker)
            blocks: dict[str, str] = dict(_BLOCK.findall(text))
            jwt = blocks.get("NATS USER JWT")
            if jwt is None:
                raise BrokerRefusedError(broker, f"{self.credentials_file} holds no JWT of a user")
            return {"jwt": jwt, "sig": _signed(text, self.credentials_file, nonce, broker)[1]}
        if self.seed_file is not None:
            key, signature = _signed(_read(self.seed_file, broker), self.seed_file, nonce, broker)
            return {"nkey": key, "sig": signature}
        if self.token is not None:
            return {"auth_token": self.token}
        if self.user is not None:
            return {"user": self.user, "pass": self.password or ""}
        return {}


def _read(path: str, broker: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 - a path as it was written
            return file.read()
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is no text"
        raise BrokerRefusedError(broker, f"{path} cannot be read: {reason}") from None


def _signed(text: str, path: str, nonce: str | None, broker: str) -> tuple[str, str]:
    """Return the public key of the seed in *text*, and its signature of *nonce*."""
    try:
        import nkeys
    except ImportError:
        raise UnsupportedError(
            "signing in with a key", "nats without nkeys", "install it: pip install 'trepid[nats]'"
        ) from None
    seed = _SEED.search(text)
    if seed is None:
        raise BrokerRefusedError(broker, f"{path} holds no seed of a key")
    if not nonce:
        raise BrokerRefusedError(broker, "the server asks for no signature, so a key proves nothing to it")
    try:
        pair: Any = nkeys.from_seed(seed[0].encode())
        key = pair.public_key
        signature = pair.sign(nonce.encode())
    except Exception:  # noqa: BLE001 - whatever it raises may quote the seed
        raise BrokerRefusedError(broker, f"the seed in {path} is damaged") from None
    public = key.decode() if isinstance(key, bytes) else str(key)
    return public, base64.urlsafe_b64encode(signature).rstrip(b"=").decode()
