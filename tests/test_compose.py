"""compose.yaml is what its page says; there is no Docker here, so its images are not run."""

import re
import shlex
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "compose.yaml").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "guides" / "servers.md").read_text(encoding="utf-8")
SERVICES = yaml.safe_load(TEXT)["services"]
ROWS = {
    service: (image, urlsplit(url))
    for service, image, url in re.findall(r"^\| `(\w+)` \| `([^`]+)` \| `([^`]+)` \|$", PAGE, flags=re.MULTILINE)
}
PORTS = {"redis": 6379, "postgresql": 5432, "amqp": 5672, "nats": 4222}
DATA = {"redis": "/data", "postgres": "/var/lib/postgresql/data", "rabbitmq": "/var/lib/rabbitmq", "nats": "/data"}


def test_the_page_has_every_service_and_no_other():
    assert len(ROWS) == 4
    assert ROWS.keys() == SERVICES.keys()
    assert {url.scheme for _, url in ROWS.values()} == PORTS.keys()


@pytest.mark.parametrize("name", ROWS)
def test_a_service_is_what_its_row_says(name):
    image, url = ROWS[name]
    service = SERVICES[name]
    assert service["image"] == image
    assert service["ports"] == [f"127.0.0.1:{url.port}:{PORTS[url.scheme]}"]
    assert f"# Trepid: {url.geturl()}\n  {name}:\n" in TEXT


def test_the_urls_have_the_users_that_the_services_make():
    _, url = ROWS["postgres"]
    made = SERVICES["postgres"]["environment"]
    assert (url.username, url.password) == (made["POSTGRES_USER"], made["POSTGRES_PASSWORD"])
    assert url.path == "/" + made["POSTGRES_DB"]
    _, url = ROWS["rabbitmq"]
    made = SERVICES["rabbitmq"]["environment"]
    assert (url.username, url.password) == (made["RABBITMQ_DEFAULT_USER"], made["RABBITMQ_DEFAULT_PASS"])
    assert made["RABBITMQ_DEFAULT_USER"] != "guest"  # who may connect from inside the container only
    assert all(ROWS[name][1].username is None for name in ("redis", "nats"))


@pytest.mark.parametrize("name", ROWS)
def test_a_service_keeps_its_data_and_says_how_it_is(name):
    service = SERVICES[name]
    assert service["volumes"] == [f"{name}:{DATA[name]}"]
    assert service["healthcheck"]["test"][0] == "CMD"
    assert {"interval", "timeout", "retries"} < service["healthcheck"].keys()
    assert name in yaml.safe_load(TEXT)["volumes"]


def test_redis_and_nats_are_told_to_keep_what_they_accept():
    redis = " ".join(SERVICES["redis"]["command"])
    assert "--appendonly yes --appendfsync always" in redis
    assert "--maxmemory-policy noeviction" in redis
    nats = SERVICES["nats"]
    assert "--jetstream --store_dir /data" in " ".join(nats["command"])
    asked = urlsplit(nats["healthcheck"]["test"][-1])
    assert nats["command"][nats["command"].index("--http_port") + 1] == str(asked.port)


@pytest.mark.parametrize("name", ["redis", "nats"])
def test_the_real_server_takes_the_command_line_of_its_service(name, request, tmp_path):
    """Ours is not the image's version; options that neither knows are found."""
    server = request.getfixturevalue(f"own_{name}")()
    program = server.arguments()[0]
    command = [word for word in SERVICES[name]["command"] if word != "redis-server"]
    command = [str(tmp_path) if word == DATA[name] else word for word in command]
    free = {name: str(server.ground.free_port()) for name in ("port", "monitor")}
    command = [free["monitor"] if word == "8222" else word for word in command]
    where = ["--bind", "127.0.0.1", "--dir", str(tmp_path)] if name == "redis" else ["--addr", "127.0.0.1"]
    server.stop()
    server.arguments = lambda: [program, *command, *where, "--port", str(server.port)]
    server.is_ready = {"redis": lambda: server.command("PING", check=False) == "PONG", "nats": lambda: heard(server)}[
        name
    ]
    server.start()
    assert server.running, shlex.join(server.arguments())


def heard(server):
    try:
        return server.info()["jetstream"]
    except (OSError, ValueError):
        return False
