"""Named roots that data is read from, and the store that everything of our own is written to, once."""
