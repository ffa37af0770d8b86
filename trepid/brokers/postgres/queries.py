"""The statements that only look.  ``@.`` stands for the schema."""

# ruff: noqa: S608 - the parts that are put together are constants; values are always parameters.

from __future__ import annotations

from typing import Final

from trepid.brokers.postgres.claiming import LANES
from trepid.brokers.postgres.schema import COLUMNS

GET: Final = f"""
    SELECT {COLUMNS} FROM @.messages WHERE queue = $1 AND id = $2
    UNION ALL SELECT {COLUMNS} FROM @.ended WHERE queue = $1 AND id = $2"""
BODIES: Final = """
    SELECT seq, payload, errors, gate FROM @.messages WHERE seq = ANY($2::bigint[])
    UNION ALL
    SELECT e.* FROM unnest($3::text[]) AS g(name)
    CROSS JOIN LATERAL (
        SELECT seq, payload, errors, gate FROM @.ended WHERE queue = $1 AND id = g.name OFFSET 0) AS e"""
RESULT: Final = "SELECT result, unreadable FROM @.ended WHERE queue = $1 AND id = $2"
COUNTS: Final = """
    SELECT (SELECT count(*) FROM @.messages WHERE queue = $1 AND state < 2 AND gate IS NULL)
           + (SELECT count(*) FROM @.messages WHERE queue = $1 AND state < 2 AND gate IS NOT NULL),
           (SELECT count(*) FROM @.messages WHERE queue = $1 AND state < 2 AND gate IS NULL AND due <= $2)
           + (SELECT count(*) FROM @.messages WHERE queue = $1 AND state < 2 AND gate IS NOT NULL AND due <= $2),
           (SELECT count(*) FROM @.messages
            WHERE queue = $1 AND state < 2 AND expires IS NOT NULL AND expires <= $2 AND due <= $2),
           (SELECT count(*) FROM @.messages WHERE queue = $1 AND state = 2 AND until > $2)"""
COUNT_ENDED: Final = """
    SELECT s.state,
           (SELECT count(*) FROM @.ended e WHERE e.queue = $1 AND e.state = s.state),
           (SELECT count(*) FROM @.ended e
            WHERE e.forget IS NOT NULL AND e.forget <= $2 AND e.queue = $1 AND e.state = s.state)
    FROM (VALUES (3), (4), (5)) AS s(state)"""
OLDEST: Final = f"""
    WITH {LANES}
    SELECT (SELECT due FROM @.messages
            WHERE queue = $1 AND priority = lane.priority AND state < 2 AND gate IS NULL AND due <= $2
                  AND (expires IS NULL OR expires > $2) ORDER BY due LIMIT 1)
    FROM lane
    UNION ALL
    SELECT (SELECT due FROM @.messages
            WHERE queue = $1 AND state < 2 AND gate IS NOT NULL AND due <= $2
                  AND (expires IS NULL OR expires > $2) ORDER BY due LIMIT 1)"""
PEEK_READY: Final = f"""
    SELECT {COLUMNS} FROM @.messages
    WHERE queue = $1 AND state < 2 AND due <= $2 AND (expires IS NULL OR expires > $2) AND seq > $3
    ORDER BY seq LIMIT $4"""
PEEK_SCHEDULED: Final = f"""
    SELECT {COLUMNS} FROM @.messages WHERE queue = $1 AND state < 2 AND due > $2 AND seq > $3 ORDER BY seq LIMIT $4"""
PEEK_LEASED: Final = f"""
    SELECT {COLUMNS} FROM @.messages WHERE queue = $1 AND state = 2 AND until > $2 AND seq > $3 ORDER BY seq LIMIT $4"""
PEEK_ENDED: Final = f"""
    SELECT {COLUMNS} FROM @.ended
    WHERE queue = $1 AND state = $5 AND (forget IS NULL OR forget > $2) AND seq > $3 ORDER BY seq LIMIT $4"""
