"""Native Trio connections to servers: one skeleton, and one protocol each on top of it."""
