"""Where readings of GPUs come from, as `--gpu` says."""

from __future__ import annotations

from daemon.config import Config, GpuBackend
from daemon.gpu.client import GpuWorker
from daemon.gpu.nvml_source import NvmlSource
from daemon.gpu.off import OffSource
from daemon.gpu.source import GpuSource


def source_of(config: Config) -> GpuSource:
    """Where readings come from with these settings. Raises UserError when the mock scenario is none."""
    match config.gpu:
        case GpuBackend.OFF:
            return OffSource("readings of GPUs are switched off", "start xidwatch with --gpu auto")
        case GpuBackend.MOCK:
            from daemon.gpu.mock import DEFAULT, MockFleet, MockSource, ScenarioFile

            if config.mock_scenario is None:
                return MockSource(MockFleet(DEFAULT))
            file = ScenarioFile(config.mock_scenario)
            return MockSource(MockFleet(file.first), file)
        case GpuBackend.AUTO | GpuBackend.NVML:
            return NvmlSource(GpuWorker())
