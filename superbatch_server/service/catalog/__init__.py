"""The catalog: the one record of what exists, and every transaction that changes it."""
