"""The process that talks to NVML: the only one that loads libnvidia-ml, and the only one it can hang."""
