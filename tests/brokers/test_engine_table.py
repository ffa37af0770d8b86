"""The page about engines says what the engines say of themselves."""

import attrs
import pytest

import trepid
from tests.brokers import engine_table
from tests.brokers.engine_table import NAMES, PAGE, capabilities_of, rows, table_of
from tests.brokers.places import fresh_url
from trepid.brokers.assisted import AssistedBroker
from trepid.connection.urls import broker_at


def broker(engine, request, tmp_path):
    match engine:
        case "memory":
            return trepid.MemoryBroker()
        case "sqlite":
            return broker_at(f"sqlite:{tmp_path / 'jobs.db'}")
        case _:
            first, *second = [broker_at(fresh_url(each, request)[1]) for each in engine.split("+")]
            return AssistedBroker(first, *second) if second else first


@pytest.mark.parametrize("key", NAMES)
async def test_the_page_says_what_the_engine_says(key, request, tmp_path):
    capabilities = await capabilities_of(broker(key, request, tmp_path))
    column = list(NAMES).index(key) + 1
    written = {row[0]: row[column] for row in table_of(PAGE.read_text(encoding="utf-8"))}
    # The shared PostgreSQL of the tests does not wait for the disk, and the page was written with one that does.
    said = dict(rows([capabilities]))
    if key == "postgres":
        del said["`durability`"], written["`durability`"]
    assert written == said, "run `make engines`"


def test_a_table_is_read_as_it_was_written():
    capabilities = trepid.Capabilities(engine="Toy 1.2.3", durability="none", durability_proof="a toy")
    examined = {"memory": engine_table.Examined(capabilities, 3, {"a_case": "Toy 1.2.3 declares peek=False"})}
    page = engine_table.page(examined)
    assert table_of(page) == rows([capabilities])
    assert len(table_of(page)) == len(attrs.fields(trepid.Capabilities)) - 2
    assert "| version | 1.2.3 |" in page
    assert "- peek=False: `a_case`" in page
