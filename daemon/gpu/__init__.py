"""What the GPUs of this node are and how they are: NVML, read by a process of its own that may hang."""
