"""What can be measured, by the names of the command line."""

from __future__ import annotations

from benchmarks import (
    decode_rate,
    ebpf,
    fan_out,
    flood,
    gpus,
    idle,
    latency,
    loaders,
    process_ends,
    replay_rate,
    scaling,
    start_up,
    storm,
    tool_calls,
)
from benchmarks.outcome import Row

ROWS = (
    Row("latency", "kernel line to a client on /events", latency.measure),
    Row("listeners", "kernel line to whatever else listens", latency.measure_others),
    Row("flood", "a flood of kernel lines", flood.measure),
    Row("ebpf", "kernel line to a client on /events, through eBPF", ebpf.measure),
    Row("ebpf-floods", "floods of kernel lines, through eBPF", ebpf.measure_floods),
    Row("storm", "a storm of Xids on one GPU", storm.measure),
    Row("idle", "the daemon with nothing to do", idle.measure),
    Row("calls", "tool calls", tool_calls.measure),
    Row("fanout", "one event to 1,000 subscribers", fan_out.measure),
    Row("gpus", "reading GPUs", gpus.measure),
    Row("decode", "lines decoded a second", decode_rate.measure),
    Row("replay", "a saved log replayed", replay_rate.measure),
    Row("start", "start-up", start_up.measure),
    Row("ends", "the end of processes", process_ends.measure),
    Row("loaders", "loading the eBPF program", loaders.measure),
)
SCALING = tuple(
    Row(f"scaling-{scale.name}", scale.title, scale.measure, is_repeated=False) for scale in scaling.SCALES
)
"""How costs grow: minutes each, and only where asked for, by name or with `--full`."""
