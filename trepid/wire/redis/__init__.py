"""The Redis protocol, RESP3: sans-IO in `speech.py`, one server in `connection.py`, several in `cluster.py`."""
