"""What the stories of connections begin with: a connection to a fresh memory broker."""

import pytest

import trepid


@pytest.fixture
async def connection():
    """A connection with the queue "default".  Ask for ``autojump_clock`` beside it."""
    async with trepid.open_connection("memory:") as connection:
        await connection.declare("default")
        yield connection
