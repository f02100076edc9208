"""A published table as data, read from YAML with the place of every key."""
