"""The figures of this program on your machine: `make bench`. See docs/benchmarks.md."""
