"""Private RabbitMQ servers."""

import base64
import hashlib
import json
import os
import subprocess
from urllib.parse import quote

from tests.servers.ground import HOST, find_program
from tests.servers.server import Server, ServerError

SCRIPTS = ("/usr/lib/rabbitmq/bin", "/opt/homebrew/opt/rabbitmq/sbin", "/usr/local/opt/rabbitmq/sbin")


class RabbitMQ(Server):
    """A RabbitMQ node with its own names server (epmd); it takes some seconds to start.

    Args:
      user, password: of the administrator.
      users: more users, as ``{"reader": ("secret", "^$", "^$", ".*")}``: the password, and what they may configure,
        write and read in every virtual host.
      vhosts: virtual hosts beside ``/``.
      tls: the port speaks TLS only.
      options: any other lines of ``rabbitmq.conf``, as ``{"heartbeat": 2}``; they win.
      settings: settings of the application itself, which ``rabbitmq.conf`` does not know: numbers by name.
    """

    name = "rabbitmq"
    start_within = 90.0
    stop_within = 45.0

    def __init__(
        self, ground, *, user="guest", password="guest", users=None, vhosts=(), tls=False, options=None, settings=None
    ):  # fmt: skip
        super().__init__(ground, tls=tls)
        self._program = find_program("rabbitmq-server", "rabbitmq-server", *SCRIPTS)
        self._ctl = find_program("rabbitmqctl", "rabbitmq-server", *SCRIPTS)
        self._epmd_program = find_program("epmd", "erlang-base")
        self.user_name, self.password = user, password
        self._users = {user: (password, ".*", ".*", ".*"), **(users or {})}
        self._vhosts = ["/", *vhosts]
        self._options = options or {}
        self._settings = settings or {}
        self._distribution_port = ground.free_port()
        self._epmd, self._epmd_port = None, ground.free_port()
        home = self.folder / "home"
        home.mkdir()
        cookie = home / ".erlang.cookie"
        cookie.write_text(os.urandom(16).hex())
        cookie.chmod(0o400)
        (self.folder / "none").touch()
        (self.folder / "enabled_plugins").write_text("[].\n")
        self._node = f"trepid{self._distribution_port}@localhost"

    @property
    def url(self):
        return self.vhost_url("/")

    def vhost_url(self, vhost, *, user=None, password=None):
        """Return the URL of a virtual host, for the administrator or somebody else."""
        secret = f"{quote(user or self.user_name, safe='')}:{quote(password or self.password, safe='')}"
        path = "" if vhost == "/" else "/" + quote(vhost, safe="")
        return f"{'amqps' if self.tls else 'amqp'}://{secret}@{self.host}:{self.port}{path}"

    def ctl(self, *words, timeout=60):
        """Run rabbitmqctl (one to two seconds), and return what it prints."""
        done = subprocess.run(
            [self._ctl, "--quiet", *map(str, words)],
            env={**os.environ, **self.environment()},
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        if done.returncode:
            raise ServerError(f"rabbitmqctl {' '.join(map(str, words))}: {done.stderr.strip()}")
        return done.stdout.strip()

    def prepare(self):
        settings = {
            "loopback_users": "none",
            "vm_memory_high_watermark.absolute": "1GB",
            "disk_free_limit.absolute": "50MB",
            "load_definitions": self.folder / "definitions.json",
            "log.file.level": "info",
        }
        if self.tls:
            files = self.certificates
            settings |= {
                "listeners.tcp": "none",
                "listeners.ssl.1": f"{HOST}:{self.port}",
                "ssl_options.cacertfile": files.ca,
                "ssl_options.certfile": files.certificate,
                "ssl_options.keyfile": files.key,
                "ssl_options.verify": "verify_none",
            }
        else:
            settings["listeners.tcp.1"] = f"{HOST}:{self.port}"
        settings |= self._options
        lines = [f"{name} = {value}" for name, value in settings.items()]
        (self.folder / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
        settings = ", ".join(f"{{{name}, {value}}}" for name, value in self._settings.items())
        (self.folder / "advanced.config").write_text(f"[{{rabbit, [{settings}]}}].\n")
        (self.folder / "definitions.json").write_text(json.dumps(self._definitions()))
        if self._epmd is None or self._epmd.poll() is not None:
            self._epmd = self.ground.spawn(
                [self._epmd_program, "-port", self._epmd_port, "-address", HOST],
                folder=self.folder,
                log=self.folder / "epmd.log",
            )

    def _definitions(self):
        def user(name, password):
            salt = os.urandom(4)
            digest = base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()
            tags = ["administrator"] if name == self.user_name else []
            algorithm = "rabbit_password_hashing_sha256"
            return {"name": name, "password_hash": digest, "hashing_algorithm": algorithm, "tags": tags}

        return {
            "users": [user(name, rights[0]) for name, rights in self._users.items()],
            "vhosts": [{"name": vhost} for vhost in self._vhosts],
            "permissions": [
                {"user": name, "vhost": vhost, "configure": rights[1], "write": rights[2], "read": rights[3]}
                for name, rights in self._users.items()
                for vhost in self._vhosts
            ],
        }

    def environment(self):
        return {
            "HOME": str(self.folder / "home"),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": HOST,
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_LOGS": str(self.folder / "node.log"),
            "RABBITMQ_PID_FILE": str(self.folder / "node.pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "none"),
            # Quiet schedulers; and the shell scripts make way for Erlang itself, so that our process is the node.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none",
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def arguments(self):
        return [self._program]

    def is_ready(self):
        try:
            with self.connect(timeout=2) as connection:
                # The answer is the method Connection.Start (the port opens before); in it is the name of the node,
                # which tells it from a stranger on the same port.
                connection.sendall(b"AMQP\0\0\x09\x01")
                said = b""
                while len(said) < 7 or len(said) < 8 + int.from_bytes(said[3:7]):
                    if not (chunk := connection.recv(4096)):
                        return False
                    said += chunk
                return said[:1] == b"\x01" and self._node.partition("@")[0].encode() + b"@" in said
        except OSError:
            return False

    def log(self, lines=60):
        node = self.folder / "node.log"
        said = node.read_text(errors="replace").splitlines()[-lines:] if node.exists() else []
        return "\n".join([super().log(lines), *said])

    def close(self):
        super().close()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()
            self.ground.forget(self._epmd)
