"""Dual encoders behind one protocol, with deterministic preprocessing."""
