"""Training of guide models, and evaluation."""
