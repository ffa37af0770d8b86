"""The protocol of NATS: a parser without I/O, and a connection that logs in, asks and subscribes."""
