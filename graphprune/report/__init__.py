"""What a run found and did: plain data, tables, progress."""
