"""Thousands of interleavings per second of the platform's own code, from a seed, on a virtual clock, with crashes."""
