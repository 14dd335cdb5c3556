"""All pairs of candidates with the newly chosen, reduced to one number per candidate, without a matrix of them."""
