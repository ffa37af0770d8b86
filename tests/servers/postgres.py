"""Private PostgreSQL servers, copied from one template per session."""

import os
import pwd
import shutil
import signal
import subprocess
from urllib.parse import quote

from tests.servers.ground import find_program
from tests.servers.server import Server, ServerError

BINARIES = ("/usr/lib/postgresql/*/bin", "/opt/homebrew/opt/postgresql@*/bin", "/usr/local/opt/postgresql@*/bin")
# PostgreSQL refuses to run as root.
USER = "postgres" if os.geteuid() == 0 else None
PASSWORD = "let me in: 100% / @home"


def find(program):
    return find_program(program, "postgresql", *BINARIES)


def template(ground):
    """Return the folder of a fresh database cluster, which is made once per session."""
    folder = ground.folder / "postgres-template"
    if not folder.exists():
        making, secret = ground.new_folder("postgres-making"), ground.folder / "postgres-password"
        secret.write_text(PASSWORD + "\n")
        secret.chmod(0o644)
        own(making)
        access = ["-U", "postgres", f"--pwfile={secret}", "-A", "trust"]
        run([find("initdb"), "-D", making / "data", *access, "--no-sync", "-E", "UTF8", "--locale=C"], folder=making)
        (making / "data").rename(folder)
    return folder


def own(*paths):
    """Give files to the user that PostgreSQL runs as."""
    if USER:
        for path in paths:
            shutil.chown(path, USER)


def run(arguments, *, folder, timeout=60):
    """Run one of PostgreSQL's programs as its user, and return what it prints."""
    extra = {"user": USER, "group": pwd.getpwnam(USER).pw_gid, "extra_groups": []} if USER else {}
    done = subprocess.run(
        [str(argument) for argument in arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "HOME": str(folder)},
        timeout=timeout,
        **extra,
    )
    if done.returncode:
        raise ServerError(f"{' '.join(map(str, arguments))}: {done.stderr.strip()}")
    return done.stdout.strip()


class Postgres(Server):
    """A PostgreSQL server with the superuser ``postgres`` and the database ``postgres``.

    Args:
      durable: ``fsync`` and ``synchronous_commit`` are on, as in production; else they are off, and the tests quick.
      password: whether clients over TCP need the password :data:`PASSWORD` (scram-sha-256).
      tls: whether clients over TCP must use TLS.
      standby_of: another :class:`Postgres` that runs; this one follows it, and is read-only.
      options: any other settings, as ``{"max_connections": 20, "default_transaction_read_only": "on"}``; they win.
    """

    name = "postgres"
    stop_signal = signal.SIGINT  # "fast": clients are disconnected, the data are in order
    user = USER

    def __init__(self, ground, *, durable=True, password=False, tls=False, standby_of=None, options=None):
        super().__init__(ground, tls=tls)
        self._program, self._psql = find("postgres"), find("psql")
        self.password = PASSWORD if password else None
        self.data = self.folder / "data"
        self._settings = {"max_connections": 100, "shared_buffers": "32MB", "wal_level": "replica"}
        self._settings |= {"autovacuum_naptime": "5s", "log_line_prefix": "%m [%p] "}
        if not durable:
            self._settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        self._settings |= options or {}
        self._databases = 0
        own(self.folder)
        if standby_of is None:
            subprocess.run(["cp", "-a", template(ground), self.data], check=True, timeout=60)
        else:
            where = ["-h", standby_of.folder, "-p", standby_of.port, "-U", "postgres"]
            run(
                [find("pg_basebackup"), *where, "-D", self.data, "-R", "-X", "stream", "-c", "fast", "--no-sync"],
                folder=self.folder,
            )

    @property
    def url(self):
        return self.database_url("postgres")

    def database_url(self, name):
        """Return the URL of a database of this server."""
        secret = f":{quote(self.password, safe='')}" if self.password else ""
        query = f"?sslmode=verify-full&sslrootcert={self.certificates.ca}" if self.tls else ""
        return f"postgresql://postgres{secret}@{self.host}:{self.port}/{name}{query}"

    def new_database(self, options=""):
        """Return the URL of a new, empty database."""
        self._databases += 1
        name = f"test_{self._databases}"
        self.sql(f"CREATE DATABASE {name} {options}")
        return self.database_url(name)

    def sql(self, statement, *, database="postgres", timeout=30):
        """Run one statement with psql, as the superuser, and return what it prints (fields separated by ``|``)."""
        where = ["-h", self.folder, "-p", self.port, "-U", "postgres", "-d", database]
        quiet = ["-X", "-q", "-A", "-t", "-w", "-v", "ON_ERROR_STOP=1"]
        return run([self._psql, *where, *quiet, "-c", statement], folder=self.folder, timeout=timeout)

    def prepare(self):
        # The Unix socket is for us; it never asks for a password.
        kind, method = ("hostssl" if self.tls else "host"), ("scram-sha-256" if self.password else "trust")
        rules = ["local all all trust", "local replication all trust"]
        rules += [f"{kind} {database} all 127.0.0.1/32 {method}" for database in ("all", "replication")]
        (self.data / "pg_hba.conf").write_text("\n".join(rules) + "\n")
        settings = dict(self._settings)
        if self.tls:
            certificate, key = self.folder / "server.pem", self.folder / "server.key"
            for source, copy in ((self.certificates.certificate, certificate), (self.certificates.key, key)):
                copy.unlink(missing_ok=True)
                shutil.copy(source, copy)
                copy.chmod(0o600)
            own(certificate, key)
            settings |= {"ssl": "on", "ssl_cert_file": certificate, "ssl_key_file": key}
        lines = [f"{name} = '{value}'" for name, value in settings.items()]
        (self.data / "postgresql.conf").write_text("\n".join(lines) + "\n")

    def arguments(self):
        sockets = f"unix_socket_directories={self.folder}"
        return [self._program, "-D", self.data, "-p", self.port, "-h", self.host, "-c", sockets]

    def is_ready(self):
        try:
            return self.sql("SELECT 1", timeout=5) == "1"
        except (ServerError, subprocess.TimeoutExpired):
            return False
