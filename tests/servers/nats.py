"""Private NATS servers with JetStream: alone or three of them as a cluster."""

import json
import signal
import socket
import urllib.request
from urllib.parse import quote

from tests.servers.ground import find_program
from tests.servers.server import Server, wait_until


class Nats(Server):
    """A NATS server with JetStream on files in its folder.

    Args:
      user, password: what clients have to say; or
      token: as above; or
      nkey: the public key (``U...``) of the only user, who has to sign the server's nonce.
      tls: clients must use TLS.
      jetstream: False for a server without it.
      options: any other lines of the configuration, as ``{"max_payload": "64KB"}``; a value is written as it stands.
    """

    name = "nats"

    def __init__(
        self, ground, *, user=None, password=None, token=None, nkey=None, tls=False, jetstream=True, options=None
    ):
        super().__init__(ground)
        self._program = find_program("nats-server", "nats-server")
        self._secure = tls
        self._user, self._password, self._token, self._nkey = user, password, token, nkey
        self._jetstream, self._options = jetstream, {"lame_duck_grace_period": "500ms", **(options or {})}
        self.route_port = self.monitor_port = None
        self._peers = []

    @property
    def url(self):
        secret = ""
        if self._user:
            secret = f"{quote(self._user, safe='')}:{quote(self._password, safe='')}@"
        elif self._token:
            secret = f"{quote(self._token, safe='')}@"
        return f"{'tls' if self._secure else 'nats'}://{secret}{self.host}:{self.port}"

    def prepare(self):
        lines = [f"listen: {self.host}:{self.port}", f"server_name: node{self.port}"]
        if self._jetstream:
            lines += [f'jetstream {{ store_dir: "{self.folder}", max_mem: 256MB, max_file: 4GB }}']
        if self._user:
            lines += [f"authorization {{ user: {json.dumps(self._user)}, password: {json.dumps(self._password)} }}"]
        elif self._token:
            lines += [f"authorization {{ token: {json.dumps(self._token)} }}"]
        elif self._nkey:
            lines += [f"authorization {{ users: [ {{ nkey: {self._nkey} }} ] }}"]
        if self._secure:
            files = self.certificates
            lines += [f'tls {{ cert_file: "{files.certificate}", key_file: "{files.key}", timeout: 5 }}']
        if self._peers:
            routes = ", ".join(f"nats://{peer.host}:{peer.route_port}" for peer in self._peers)
            lines += [f"cluster {{ name: tests, listen: {self.host}:{self.route_port}, routes: [{routes}] }}"]
            lines += [f"http: {self.host}:{self.monitor_port}"]
        lines += [f"{name}: {value}" for name, value in self._options.items()]
        (self.folder / "nats.conf").write_text("\n".join(lines) + "\n")

    def arguments(self):
        return [self._program, "-c", self.folder / "nats.conf"]

    def info(self):
        """Return what the server says of itself to everybody who connects (its INFO), without logging in."""
        with socket.create_connection((self.host, self.port), timeout=1) as connection:
            said = b""
            while not said.endswith(b"\r\n"):
                if not (chunk := connection.recv(65_536)):
                    raise ConnectionError("closed before INFO")
                said += chunk
        verb, _, info = said.partition(b" ")
        if verb != b"INFO":
            raise ConnectionError(f"no INFO: {said[:40]!r}")
        return json.loads(info)

    def monitor(self, path):
        """Return what the monitoring port of a cluster's node says."""
        with urllib.request.urlopen(f"http://{self.host}:{self.monitor_port}{path}", timeout=5) as answer:
            return json.load(answer)

    def is_ready(self):
        try:
            info = self.info()
        except (OSError, ValueError):
            return False
        return info["server_name"] == f"node{self.port}"

    def lame_duck(self):
        """Tell the server to leave: it takes no new client, sends those it has away one by one, and ends."""
        self.signal(signal.SIGUSR2)

    def reload(self):
        """Have the server read its configuration again (after changing :meth:`prepare`'s files by hand)."""
        self.signal(signal.SIGHUP)


def open_cluster(ground, count=3, **options):
    """Start servers that are one JetStream cluster, and return them when a leader is there for its metadata."""
    nodes = [Nats(ground, **options) for _ in range(count)]
    for node in nodes:
        node.route_port, node.monitor_port = ground.free_port(), ground.free_port()
    for node in nodes:
        node._peers = nodes
        node.start()

    def led():
        """Whether every node knows who leads, and the leader knows every node."""
        about = [node.monitor("/jsz").get("meta_cluster", {}) for node in nodes]
        return all(meta.get("leader") and meta.get("cluster_size") == count for meta in about)

    wait_until(led, "the servers have not agreed on a leader")
    return nodes
