"""Pages that read score shards: learnability, examples, why a row was chosen, two generations compared."""
