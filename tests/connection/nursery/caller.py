"""A caller that is killed: ``python -m tests.connection.nursery.caller LEASE JOBS URL [SECOND-URL]``."""

import sys

import trio

import trepid


async def main(lease, count, url, results=None):
    """Start jobs in a job nursery, tell their ids, and wait for their ends."""
    async with (
        trepid.open_connection(url, results=results) as connection,
        trepid.open_job_nursery(connection, lease=lease) as jobs,
    ):
        for n in range(count):
            print(jobs.start_soon(trepid.Job("log", args=(n,))).id, flush=True)


if __name__ == "__main__":
    trio.run(main, float(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
