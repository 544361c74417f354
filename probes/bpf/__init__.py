"""The kernel log heard by eBPF: the program, its loaders, and the probe that reads its ring buffer."""
