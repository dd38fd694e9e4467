"""Benchmarks: ours, the floor and the ratio of the two, measured in the same run."""
