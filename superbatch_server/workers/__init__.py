"""The driver of one attempt: index and embed shards, draw, score, compose, commit."""
