"""Private Redis servers: alone, as a replica, with a sentinel, as a cluster."""

import subprocess
from urllib.parse import quote

from tests.servers.ground import find_program
from tests.servers.server import Server, ServerError, wait_until


def quoted(text):
    """Return an argument for ``redis.conf``."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class Redis(Server):
    """A Redis server; by default every write is on the disk before it is answered.

    Args:
      durable: ``appendonly yes`` with ``appendfsync always``; else nothing is kept over a restart.
      password: of the user ``default`` (``requirepass``).
      users: lines of ACLs by name, as ``{"worker": ">secret ~* &* +@all -@admin"}``.
      tls: the port speaks TLS only.
      unix: no port at all, a socket in the folder; then :attr:`socket_path` says where.
      replica_of: another :class:`Redis`.
      sentinel_of: another :class:`Redis`; this process is then its sentinel, and calls it ``primary``.
      cluster: a node that may become part of a cluster (see :func:`open_cluster`).
      options: any other lines of ``redis.conf``, as ``{"maxmemory": "2mb"}``; they win.
    """

    name = "redis"
    DATABASES = 512

    def __init__(
        self, ground, *, durable=True, password=None, users=None, tls=False, unix=False,
        replica_of=None, sentinel_of=None, cluster=False, options=None,
    ):  # fmt: skip
        super().__init__(ground, tls=tls)
        self._program = find_program("redis-server", "redis-server")
        self._cli = find_program("redis-cli", "redis-tools")
        self.password = password
        self.socket_path = self.folder / "redis.sock" if unix else None
        self._replica_of, self._sentinel_of, self._users = replica_of, sentinel_of, users or {}
        self._settings = {
            "save": '""',
            "databases": self.DATABASES,
            "protected-mode": "no",
            "repl-diskless-sync-delay": 0,
        }
        if durable:
            self._settings |= {"appendonly": "yes", "appendfsync": "always"}
        if cluster:
            self._settings |= {"cluster-enabled": "yes", "cluster-node-timeout": 1000, "databases": 1}
        self._settings |= options or {}
        self._database = 0
        self.bus_port = None

    @property
    def url(self):
        return self.database_url(0)

    def database_url(self, number):
        secret = f":{quote(self.password, safe='')}@" if self.password else ""
        if self.socket_path:
            return f"redis+unix://{secret}{self.socket_path}?db={number}"
        path = f"/{number}" if number else ""
        return f"{'rediss' if self.tls else 'redis'}://{secret}{self.host}:{self.port}{path}"

    def new_database(self):
        """Return the URL of a database that nobody else uses (it is emptied first)."""
        self._database = self._database % (self.DATABASES - 1) + 1
        self.command("-n", self._database, "FLUSHDB")
        return self.database_url(self._database)

    def command(self, *words, timeout=10, check=True):
        """Run one command with redis-cli, and return what it prints: ``server.command("CONFIG", "GET", "save")``.

        Raises:
          ServerError: if the answer is an error, unless *check* is False.
        """
        where = ["-s", self.socket_path] if self.socket_path else ["-h", self.host, "-p", self.port]
        if self.tls:
            where += ["--tls", "--cacert", self.certificates.ca]
        done = subprocess.run(
            [str(word) for word in [self._cli, "-e", *where, *words]],
            env={"REDISCLI_AUTH": self.password} if self.password else {},
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        answer = done.stdout.strip() or done.stderr.strip()
        if check and (done.returncode or done.stderr.strip()):
            raise ServerError(f"redis-cli {' '.join(map(str, words))}: {answer}")
        return answer

    def prepare(self):
        if self._sentinel_of:
            self._prepare_sentinel()
            return
        lines = [f"{name} {value}" for name, value in self._settings.items()]
        lines += [f"dir {self.folder}", "daemonize no", f"bind {self.host}"]
        if self.socket_path:
            lines += ["port 0", f"unixsocket {self.socket_path}"]
        elif self.tls:
            files = self.certificates
            lines += ["port 0", f"tls-port {self.port}", "tls-auth-clients no", f"tls-ca-cert-file {files.ca}"]
            lines += [f"tls-cert-file {files.certificate}", f"tls-key-file {files.key}"]
        else:
            lines += [f"port {self.port}"]
        if "cluster-enabled" in self._settings:
            self.bus_port = self.bus_port or self.ground.free_port()
            lines += [f"cluster-port {self.bus_port}"]
        if self.password:
            lines += [f"requirepass {quoted(self.password)}"]
        lines += [f"user {name} on {rules}" for name, rules in self._users.items()]
        if primary := self._replica_of:
            lines += [f"replicaof {primary.host} {primary.port}"]
            lines += [f"masterauth {quoted(primary.password)}"] if primary.password else []
        (self.folder / "redis.conf").write_text("\n".join(lines) + "\n")

    def _prepare_sentinel(self):
        path = self.folder / "redis.conf"
        if path.exists() and self._promised:  # a sentinel writes what it knows into its file
            return
        primary = self._sentinel_of
        lines = [f"dir {self.folder}", f"bind {self.host}", f"port {self.port}"]
        lines += [f"sentinel monitor primary {primary.host} {primary.port} 1"]
        lines += [f"sentinel auth-pass primary {quoted(primary.password)}"] if primary.password else []
        lines += ["sentinel down-after-milliseconds primary 500", "sentinel failover-timeout primary 3000"]
        path.write_text("\n".join(lines) + "\n")

    def arguments(self):
        return [self._program, self.folder / "redis.conf", *(["--sentinel"] if self._sentinel_of else [])]

    def is_ready(self):
        try:
            # The number tells us from a stranger on the same port; an answer while it loads is an error.
            if f"process_id:{self.pid}" not in self.command("INFO", "server", timeout=1).split():
                return False
            if self.command("PING", timeout=1) != "PONG":
                return False
            # A replica has to have the data, as long as there is somebody to have them from.
            followed = self._replica_of is not None and self._replica_of.running
            return not followed or "master_link_status:up" in self.command("INFO", "replication", timeout=1)
        except (ServerError, subprocess.TimeoutExpired):
            return False


def open_cluster(ground, count=3, **options):
    """Start a cluster of primaries without replicas, and return its nodes when every one of them serves all slots."""
    nodes = [Redis(ground, cluster=True, **options).start() for _ in range(count)]
    slots = 16_384
    for index, node in enumerate(nodes):
        node.command("CLUSTER", "ADDSLOTSRANGE", index * slots // count, (index + 1) * slots // count - 1)
        node.command("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
    for node in nodes[1:]:
        node.command("CLUSTER", "MEET", nodes[0].host, nodes[0].port, nodes[0].bus_port)

    def agreed():
        states = [node.command("CLUSTER", "INFO") for node in nodes]
        return all("cluster_state:ok" in state and f"cluster_known_nodes:{count}" in state for state in states)

    wait_until(agreed, "the nodes of the cluster have not agreed")
    return nodes
