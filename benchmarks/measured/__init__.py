"""Measurements that benchmarks share; not benchmarks themselves."""
