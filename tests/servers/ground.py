"""The ground that private servers stand on: a folder, free ports, certificates, and the promise to leave nothing."""

import contextlib
import os
import pwd
import random
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
from functools import cached_property
from pathlib import Path

HOST = "127.0.0.1"
# Below the ports that the system hands out by itself: an outgoing connection cannot take the port of a server that is
# down, and a client that knocks there again and again cannot be connected to itself.
PORTS = range(15_000, 32_000)


class MissingServerError(Exception):
    """A server's program is not installed."""

    def __init__(self, program, package):
        super().__init__(
            f"the tests need {program}, and it is not installed: `make servers` installs it"
            f" (or install the package {package} by hand, and start no service of it)"
        )


def find_program(program, package, *places):
    """Return the path of a program: from these places (which may have wildcards), or from the search path."""
    for place in places:
        # The last one has the highest version.
        found = sorted(Path("/").glob(f"{place.lstrip('/')}/{program}"), key=lambda path: (len(str(path)), str(path)))
        if found:
            return str(found[-1])
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin"])
    if found := shutil.which(program, path=path):
        return found
    raise MissingServerError(program, package)


class Certificates:
    """A certificate authority, and the certificate of every server of the session.

    Attributes:
      ca: path of the authority's certificate (PEM), which clients verify against.
      certificate: path of the servers' certificate for ``127.0.0.1``, ``localhost`` and ``::1``.
      key: path of its key.
      client_certificate: path of a client's certificate; its common name is ``trepid``.
      client_key: path of its key.
      stranger: path of another authority's certificate, which has signed nothing here.
    """

    def __init__(self, folder):
        import trustme

        authority = trustme.CA()
        server = authority.issue_cert(HOST, "localhost", "::1", common_name="localhost")
        client = authority.issue_cert("trepid@example.invalid", common_name="trepid")
        self.ca = folder / "ca.pem"
        self.certificate, self.key = folder / "server.pem", folder / "server.key"
        self.client_certificate, self.client_key = folder / "client.pem", folder / "client.key"
        self.stranger = folder / "stranger.pem"
        folder.mkdir()
        authority.cert_pem.write_to_path(self.ca)
        trustme.CA().cert_pem.write_to_path(self.stranger)
        for issued, certificate, key in (
            (server, self.certificate, self.key),
            (client, self.client_certificate, self.client_key),
        ):
            certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
            issued.private_key_pem.write_to_path(key)
            key.chmod(0o600)

    def context(self):
        """Return what a client needs to trust the servers of this session (and nobody else)."""
        return ssl.create_default_context(cafile=self.ca)


class Ground:
    """Where the servers of one test session live.

    Attributes:
      folder: all their files; removed at the end.
    """

    def __init__(self):
        # Not in TMPDIR: the user postgres must get there, and the path of a Unix socket is short.
        self.folder = Path(tempfile.mkdtemp(prefix="trepid-servers-", dir="/tmp"))
        self.folder.chmod(0o711)
        self._count = 0
        self._ports = set()
        self._keeper = subprocess.Popen(
            # Isolated, and without site: no measuring of coverage begins in there.
            [sys.executable, "-I", "-S", Path(__file__).with_name("keeper.py"), self.folder],
            stdin=subprocess.PIPE,
            text=True,
            bufsize=1,
            cwd="/",
            start_new_session=True,
        )

    @cached_property
    def certificates(self):
        """The certificates of this session, made when they are first asked for."""
        return Certificates(self.folder / "certificates")

    def new_folder(self, name):
        """Return a new folder of its own for one server."""
        self._count += 1
        folder = self.folder / f"{name}-{self._count}"
        folder.mkdir()
        return folder

    def free_port(self):
        """Return a port that nobody listens on, and that was not given to another server of the session."""
        while True:
            port = random.choice(PORTS)
            if port in self._ports:
                continue
            with contextlib.suppress(OSError), socket.socket() as probe:
                probe.bind((HOST, port))
                self._ports.add(port)
                return port

    def spawn(self, arguments, *, folder, log, env=None, user=None):
        """Start a process that ends with the session at the latest."""
        extra = {}
        if user is not None and os.geteuid() == 0:
            extra = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
        with log.open("ab") as output:
            process = subprocess.Popen(
                [str(argument) for argument in arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={**os.environ, "SERVERS_GROUND": str(self.folder), **(env or {})},
                start_new_session=True,
                **extra,
            )
        self._keeper.stdin.write(f"{process.pid}\n")
        return process

    def forget(self, process):
        """Tell that a process has ended, and was waited for: its number may soon be somebody else's."""
        with contextlib.suppress(OSError, ValueError):
            self._keeper.stdin.write(f"-{process.pid}\n")

    def close(self):
        """End what is left, and remove the folder."""
        with contextlib.suppress(OSError):
            self._keeper.stdin.close()
        self._keeper.wait(timeout=30)
