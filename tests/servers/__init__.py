"""Private servers for the tests, and a wire with faults.

Every server is real, listens on loopback, has its data in a folder under ``/tmp``, and is gone when the session ends,
also when pytest is killed.  Where a program is missing the tests fail and say which: ``make servers`` installs them.

**Fixtures**, for every test (``tests/conftest.py``)::

    redis_server  postgres_server  rabbitmq_server  nats_server     one for the session, started when first asked for;
                                                                    for tests that do no harm to it
    own_redis  own_postgres  own_rabbitmq  own_nats                 a function that starts one for this test alone:
                                                                    server = own_redis(password="secret", tls=True)
    own_redis_cluster  own_nats_cluster                             a function that starts three and returns the list
    certificates                                                    .ca .certificate .key .client_certificate
                                                                    .client_key .stranger (paths), .context()

The shared ones: Redis and RabbitMQ and NATS as durable as they can be, PostgreSQL without fsync.  Tests share them, so
each has a database of its own, ``redis_server.new_database()`` and ``postgres_server.new_database()`` (both return a
URL), or a prefix of its own for the names of queues and streams.

**A server** (:class:`tests.servers.server.Server`)::

    server.url                 for trepid.open_connection, with user and password where the server asks for them
    server.host, .port         127.0.0.1, and the same port for the life of the server
    server.pid, .running       of the server's own process
    server.start()             on the data that it has; returns itself when the server answers in its own protocol
    server.kill()              SIGKILL, children included; the data stay
    server.stop()              in order
    server.restart()           stop, if it runs, and start
    server.pause(), .resume()  SIGSTOP and SIGCONT: connections stay open, nothing is answered
    server.signal(number)
    server.log()               the end of its log, for a message
    server.folder, .certificates

They block (Redis, NATS and PostgreSQL 0.02 to 0.2 s, RabbitMQ 3 to 5 s), so call what starts, stops and asks in a
thread: ``await trio.to_thread.run_sync(server.restart)``.  ``kill``, ``pause`` and ``resume`` are quick.

**What is special**::

    own_redis(durable=True, password=None, users=None, tls=False, unix=False, replica_of=None, sentinel_of=None,
              options={"maxmemory": "2mb"})
        .command("CONFIG", "SET", "appendonly", "no")  redis-cli, check=False for errors as answers;
        .new_database(); .database_url(number); .socket_path
        users={"worker": ">secret ~* &* +@all"}; a sentinel calls what it watches "primary"
    own_postgres(durable=True, password=False, tls=False, standby_of=None,
                 options={"default_transaction_read_only": "on"})
        .sql("SELECT 1")  psql, as superuser; .new_database(); .database_url(name)
    own_rabbitmq(user="guest", password="guest", users=None, vhosts=(), tls=False, options={"heartbeat": "2"})
        .ctl("list_queues")  rabbitmqctl, 1 to 2 s; .vhost_url(vhost, user=None, password=None)
        users={"reader": ("secret", "^$", "^$", ".*")}: password, configure, write, read
    own_nats(user=None, password=None, token=None, nkey=None, tls=False, jetstream=True,
             options={"max_payload": "64KB"})
        .lame_duck(), .info(), .reload()

With ``tls=True`` the port speaks TLS only; its certificate is for 127.0.0.1 and localhost, signed by
``certificates.ca``.

**The wire** (:mod:`tests.servers.proxy`)::

    async with open_proxy(server.host, server.port) as proxy:
        url = proxy.instead(server.url)     the same URL, through the proxy (proxy.host, proxy.port)
        proxy.reset()                       reset every connection (RST)
        proxy.hang_up()                     end every connection in order (FIN)
        proxy.refuse(True)                  reset new connections at once; the open ones live
        proxy.black_hole(True)              pass nothing more; black_hole(True, "requests") or "replies": one direction
        proxy.slice(1)                      in pieces of this many bytes, both ways; slice(None) ends it
        proxy.delay(0.2)                    latency of each direction, in seconds; order and pipelining are kept
        proxy.bandwidth(10_000)             bytes per second of each direction of a connection; None ends it
        proxy.drop_replies_after(n)         n more bytes of replies pass (over all connections), the rest is swallowed
        proxy.drop_replies_after(0, then_reset=True)   once: the next reply is lost, and its connection reset
        proxy.cut_requests_after(n)         once: n more bytes of requests pass, then the connection is reset
        proxy.connections, .accepted        how many are open, how many there have been
        proxy.requests, .replies, .dropped  bytes that have passed; bytes of replies that were swallowed
        await proxy.until(lambda: proxy.dropped)       wait for what the proxy counts (10 s, then TooSlowError)

Use it for one test, in one task; leaving the block closes everything.
"""
