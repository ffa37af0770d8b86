"""A caller that is killed: ``python -m tests.connection.nursery.caller URL LEASE JOBS``."""

import sys

import trio

import trepid


async def main(url, lease, count):
    """Start jobs in a job nursery, say so once the broker has them, and wait for their ends."""
    async with trepid.open_connection(url) as connection, trepid.open_job_nursery(connection, lease=lease) as jobs:
        handles = [jobs.start_soon(trepid.Job("log", args=(n,))) for n in range(count)]
        for handle in handles:
            await handle.status()
        print("started", flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
