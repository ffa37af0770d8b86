"""What the SQL engines share: threads that own connections and group commits, rows as values, and waiting for news."""
