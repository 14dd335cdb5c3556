"""What selection would do to a user's own data, before anything starts: Fig. 2 of the paper on a sample."""
