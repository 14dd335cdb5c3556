"""One file per way of choosing a batch, and the rounds that they share."""
