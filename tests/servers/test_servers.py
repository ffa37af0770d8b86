"""The servers that other tests stand on."""

import contextlib
import json
import signal
import socket
import time

import pytest

from tests.servers.ground import Ground, MissingServerError, find_program
from tests.servers.nats import Nats
from tests.servers.postgres import Postgres
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.redis import Redis
from tests.servers.server import ServerError, lives, wait_until

SHARED = ["redis_server", "postgres_server", "rabbitmq_server", "nats_server"]
QUICK = [Redis, Postgres, Nats]


def start(request, kind, **options):
    return request.getfixturevalue(f"own_{kind.name}")(**options)


# ------------------------------------------------------------------------------------ what nats-server has no tool for


def nats_request(server, subject, body, timeout=10):
    """Ask JetStream's interface, and return its answer."""
    with (
        socket.create_connection((server.host, server.port), timeout=timeout) as connection,
        connection.makefile("rb") as lines,
    ):
        text = json.dumps(body).encode()
        connection.sendall(b'CONNECT {"verbose":false}\r\nSUB inbox 1\r\n')
        connection.sendall(b"PUB %s inbox %d\r\n%s\r\n" % (subject.encode(), len(text), text))
        while not (line := lines.readline()).startswith(b"MSG"):
            assert line
        return json.loads(lines.readline())


WRITE = {
    Redis: lambda server: server.command("SET", "kept", "yes"),
    Postgres: lambda server: server.sql("CREATE TABLE kept AS SELECT 'yes' AS value"),
    RabbitMQ: lambda server: server.ctl("add_vhost", "kept"),
    Nats: lambda server: nats_request(server, "$JS.API.STREAM.CREATE.kept", {"name": "kept", "subjects": ["kept.>"]}),
}
READ = {
    Redis: lambda server: server.command("GET", "kept") == "yes",
    Postgres: lambda server: server.sql("SELECT value FROM kept") == "yes",
    RabbitMQ: lambda server: "kept" in server.ctl("list_vhosts").split(),
    Nats: lambda server: nats_request(server, "$JS.API.STREAM.NAMES", {})["streams"] == ["kept"],
}


# ------------------------------------------------------------------------------------ all of them


@pytest.mark.parametrize("name", SHARED)
def test_a_shared_server_is_the_same_for_everybody(name, request):
    server = request.getfixturevalue(name)
    assert server.is_ready()
    assert server is request.getfixturevalue(name)


@pytest.mark.parametrize("kind", [*QUICK, RabbitMQ])
def test_a_server_that_is_killed_comes_back_with_its_data_again_and_again(kind, request):
    server = start(request, kind)
    port = server.port
    WRITE[kind](server)
    for _ in range(5 if kind in QUICK else 3):  # RabbitMQ takes seconds
        everybody = server.processes()
        server.kill()
        assert not server.running
        assert not any(map(lives, everybody))
        assert not server.is_ready()
        server.start()
        assert server.port == port
    assert READ[kind](server)


@pytest.mark.parametrize("kind", QUICK)
def test_a_server_is_restarted_in_order_on_its_data(kind, request):
    server = start(request, kind)
    WRITE[kind](server)
    pid = server.pid
    server.restart()
    assert server.pid != pid
    assert READ[kind](server)
    server.stop()
    assert not server.running


@pytest.mark.parametrize("kind", QUICK)
def test_a_frozen_server_answers_when_it_goes_on(kind, request):
    server = start(request, kind)
    server.pause()
    with server.connect(timeout=0.2) as connection:
        connection.sendall(b"?\r\n\r\n")
        with pytest.raises(TimeoutError):
            connection.recv(1)
    assert server.running
    server.resume()
    assert server.is_ready()


@pytest.mark.parametrize("kind", QUICK)
def test_a_frozen_server_can_be_stopped(kind, request):
    server = start(request, kind)
    server.pause()
    server.stop()
    assert not server.running


@pytest.mark.parametrize("kind", QUICK)
def test_a_server_that_died_by_itself_is_started_again(kind, request):
    server = start(request, kind)
    server.signal(signal.SIGKILL)
    wait_until(lambda: not server.running, "it lives")
    with pytest.raises(OSError, match="refused"):
        server.connect()
    server.start()
    assert server.is_ready()


@pytest.mark.parametrize("kind", QUICK)
def test_a_port_that_somebody_has_taken_is_exchanged_at_the_first_start_only(kind, ground):
    server = kind(ground)
    with contextlib.closing(server), socket.create_server((server.host, server.port)) as thief:
        stolen = thief.getsockname()[1]
        server.start()
        assert server.port != stolen
        assert server.is_ready()
        server.kill()
        server.start_within = 0.3
        with socket.create_server((server.host, server.port)), pytest.raises(ServerError, match=str(server.port)):
            server.start()


@pytest.mark.parametrize("kind", QUICK)
def test_a_server_that_cannot_start_says_why(kind, ground):
    with contextlib.closing(kind(ground, options={"no_such_option": "{"})) as server:
        with pytest.raises(ServerError, match=r"no_such_option|Parse error"):
            server.start()
        assert not server.running


@pytest.mark.parametrize("kind", QUICK)
def test_closing_a_server_removes_its_files(kind, request):
    server = start(request, kind)
    server.close()
    assert not server.folder.exists()
    assert not server.running


def test_a_missing_program_is_named_with_the_way_to_get_it():
    with pytest.raises(MissingServerError, match="make servers") as caught:
        find_program("no-such-server", "no-such-package", "/usr/lib/*/bin")
    assert "no-such-server" in str(caught.value)
    assert "no-such-package" in str(caught.value)


def test_ports_are_below_those_that_the_system_hands_out():
    ground = Ground()
    try:
        ports = [ground.free_port() for _ in range(50)]
    finally:
        ground.close()
    assert len(set(ports)) == 50
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert max(ports) < listener.getsockname()[1]


# ------------------------------------------------------------------------------------ Redis


def test_redis_asks_for_its_password(own_redis):
    server = own_redis(password='p w:@/"\\')
    assert server.command("PING") == "PONG"
    assert server.url == f"redis://:p%20w%3A%40%2F%22%5C@127.0.0.1:{server.port}"
    server.password = None
    with pytest.raises(ServerError, match="NOAUTH"):
        server.command("GET", "x")


def test_redis_knows_its_users(own_redis):
    server = own_redis(users={"reader": ">secret ~* +get"})
    assert not server.command("--user", "reader", "--pass", "secret", "--no-auth-warning", "GET", "x")
    with pytest.raises(ServerError, match="NOPERM"):
        server.command("--user", "reader", "--pass", "secret", "--no-auth-warning", "SET", "x", "1")


def test_redis_speaks_tls_only(own_redis):
    server = own_redis(tls=True)
    assert server.url.startswith("rediss://")
    with server.connect() as connection:
        connection.sendall(b"PING\r\n")
        assert connection.recv(100) == b"+PONG\r\n"
    with socket.create_connection((server.host, server.port), timeout=5) as connection:
        connection.sendall(b"PING\r\n")
        with contextlib.suppress(ConnectionError):
            assert b"PONG" not in connection.recv(100)


def test_redis_on_a_unix_socket_has_no_port(own_redis):
    server = own_redis(unix=True)
    assert server.command("PING") == "PONG"
    with pytest.raises(OSError, match="refused"):
        server.connect()


def test_redis_databases_are_apart(redis_server):
    first, second = redis_server.new_database(), redis_server.new_database()
    assert first != second
    redis_server.command("-n", first.rpartition("/")[2], "SET", "here", "1")
    assert not redis_server.command("-n", second.rpartition("/")[2], "GET", "here")


def test_redis_without_durability_forgets(own_redis):
    server = own_redis(durable=False)
    server.command("SET", "kept", "yes")
    server.restart()
    assert not server.command("GET", "kept")


def test_a_redis_replica_takes_over_by_sentinel(own_redis):
    primary = own_redis(password="secret")
    primary.command("SET", "kept", "yes")
    replica = own_redis(password="secret", replica_of=primary)
    assert replica.command("GET", "kept") == "yes"
    with pytest.raises(ServerError, match="READONLY"):
        replica.command("SET", "kept", "no")
    sentinel = own_redis(sentinel_of=primary)

    def leader():
        return sentinel.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "primary").split()[-1]

    assert leader() == str(primary.port)
    wait_until(lambda: "slaves=1" in sentinel.command("INFO", "sentinel"), "the sentinel does not know the replica")
    primary.kill()
    wait_until(lambda: leader() == str(replica.port), "the sentinel has not made the replica the primary")
    wait_until(lambda: "role:master" in replica.command("INFO", "replication"), "the replica has not heard of it")
    assert replica.command("SET", "kept", "still") == "OK"


def test_a_redis_cluster_serves_all_slots_and_redirects(own_redis_cluster):
    nodes = own_redis_cluster()
    assert len(nodes) == 3
    answers = {node.command("SET", "some key", "1", check=False).split()[0] for node in nodes}
    assert answers == {"OK", "MOVED"}
    nodes[1].kill()
    nodes[1].start()
    wait_until(lambda: all("cluster_state:ok" in n.command("CLUSTER", "INFO") for n in nodes), "it has not come back")


# ------------------------------------------------------------------------------------ PostgreSQL


def psql_error(server, url):
    """Return what a client hears when it connects, and something when it does not fail, too."""
    try:
        return server.sql("SELECT 1", database=url)
    except ServerError as error:
        return str(error)


def test_postgres_asks_for_its_password(own_postgres):
    server = own_postgres(password=True, durable=False)
    assert psql_error(server, server.url) == "1"
    wrong = server.url.replace("let%20me%20in", "please")
    assert wrong != server.url
    assert "password authentication failed" in psql_error(server, wrong)


def test_postgres_speaks_tls_only(own_postgres, certificates):
    server = own_postgres(tls=True, durable=False)
    assert psql_error(server, server.url) == "1"
    assert "no encryption" in psql_error(server, f"postgresql://postgres@127.0.0.1:{server.port}/?sslmode=disable")
    stranger = server.url.replace(str(certificates.ca), str(certificates.stranger))
    assert "verify failed" in psql_error(server, stranger)


def test_a_new_postgres_database_is_empty(postgres_server):
    first, second = postgres_server.new_database(), postgres_server.new_database()
    postgres_server.sql("CREATE TABLE here ()", database=first)
    assert postgres_server.sql("SELECT to_regclass('here')", database=first) == "here"
    assert not postgres_server.sql("SELECT to_regclass('here')", database=second)


def test_postgres_is_durable_or_quick(own_postgres, postgres_server):
    assert own_postgres().sql("SHOW fsync") == "on"
    assert postgres_server.sql("SHOW fsync") == "off"


def test_a_postgres_standby_follows_and_is_read_only(own_postgres):
    primary = own_postgres(durable=False)
    standby = own_postgres(durable=False, standby_of=primary)
    primary.sql("CREATE TABLE kept AS SELECT 'yes' AS value")
    wait_until(lambda: standby.sql("SELECT to_regclass('kept')") == "kept", "the standby does not follow")
    with pytest.raises(ServerError, match="read-only transaction"):
        standby.sql("INSERT INTO kept VALUES ('no')")


def test_postgres_takes_other_settings(own_postgres):
    server = own_postgres(durable=False, options={"default_transaction_read_only": "on", "max_connections": 7})
    assert server.sql("SHOW max_connections") == "7"
    with pytest.raises(ServerError, match="read-only transaction"):
        server.sql("CREATE TABLE no ()")


# ------------------------------------------------------------------------------------ RabbitMQ


def test_rabbitmq_with_tls_and_users(own_rabbitmq):
    server = own_rabbitmq(
        tls=True, user="boss", password="b@d", vhosts=["side"], users={"reader": ("secret", "^$", "^$", ".*")},
        options={"heartbeat": "7"},
    )  # fmt: skip
    assert server.url == f"amqps://boss:b%40d@127.0.0.1:{server.port}"
    assert server.vhost_url("side", user="reader", password="secret").endswith("/side")
    assert set(server.ctl("list_users").split()) >= {"boss", "reader"}
    assert "guest" not in server.ctl("list_users")
    assert "Success" in server.ctl("authenticate_user", "boss", "b@d")
    rights = [line.split() for line in server.ctl("list_permissions", "-p", "side").splitlines()]
    assert ["reader", "^$", "^$", ".*"] in rights
    assert server.ctl("environment").count("{heartbeat,7}") == 1


def test_rabbitmq_says_what_was_wrong_with_a_command(rabbitmq_server):
    with pytest.raises(ServerError, match="no_such_user"):
        rabbitmq_server.ctl("delete_user", "no_such_user")


# ------------------------------------------------------------------------------------ NATS


@pytest.mark.parametrize(
    ("options", "secret"),
    [
        ({"user": "worker", "password": "p:@/ w"}, "worker:p%3A%40%2F%20w@"),
        ({"token": "to/ken"}, "to%2Fken@"),
        ({"nkey": "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"}, ""),
    ],
    ids=["password", "token", "nkey"],
)
def test_nats_asks_who_is_there(own_nats, options, secret):
    server = own_nats(**options)
    assert server.url == f"nats://{secret}127.0.0.1:{server.port}"
    assert server.info()["auth_required"] is True
    assert ("nonce" in server.info()) == ("nkey" in options)


def test_nats_asks_for_tls(own_nats, certificates):
    server = own_nats(tls=True)
    assert server.url.startswith("tls://")
    assert server.info()["tls_required"] is True
    with socket.create_connection((server.host, server.port), timeout=5) as connection:
        assert connection.recv(4096).startswith(b"INFO")
        with certificates.context().wrap_socket(connection, server_hostname="localhost") as secure:
            secure.sendall(b"CONNECT {}\r\nPING\r\n")
            heard = b""
            while chunk := secure.recv(4096):
                heard += chunk
                if b"PONG" in heard:
                    return
    pytest.fail(f"it said {heard}")


def test_nats_without_jetstream(own_nats):
    assert "jetstream" not in own_nats(jetstream=False).info()
    assert own_nats().info()["jetstream"] is True


def test_a_lame_duck_says_so_and_ends_by_itself(own_nats):
    server = own_nats()
    with socket.create_connection((server.host, server.port), timeout=10) as connection:
        connection.sendall(b'CONNECT {"verbose":false,"protocol":1}\r\nPING\r\n')
        heard = b""
        while b"PONG" not in heard:
            heard += connection.recv(4096)
        server.lame_duck()
        while chunk := connection.recv(4096):
            heard += chunk
    assert b'"ldm":true' in heard
    wait_until(lambda: not server.running, "the lame duck swims on")
    server.start()


def test_a_nats_cluster_replicates(own_nats_cluster):
    nodes = own_nats_cluster()
    stream = {"name": "kept", "subjects": ["kept.>"], "num_replicas": 3}
    answer = nats_request(nodes[0], "$JS.API.STREAM.CREATE.kept", stream)
    assert answer["config"]["num_replicas"] == 3, answer
    nodes[0].kill()

    def kept():
        # While there is no leader, nobody answers.
        with contextlib.suppress(TimeoutError):
            return nats_request(nodes[1], "$JS.API.STREAM.NAMES", {}, timeout=1).get("streams") == ["kept"]
        return False

    wait_until(kept, "the others have not gone on")
    began = time.monotonic()
    nodes[0].start()
    assert time.monotonic() - began < nodes[0].start_within
