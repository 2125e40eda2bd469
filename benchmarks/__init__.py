"""Benchmarks: correctness first, then figures with the strongest peer in the same run; the last line is JSON."""
