from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import fake_nvml
from tests.support.fake_nvml import Scenario
from tests.support.gpu_reader import ReaderProcess


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the fake libnvidia-ml.so.1."""
    return fake_nvml.build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def fleet(tmp_path: Path, nvml_library: Path) -> Scenario:
    """Eight fake GPUs, all well."""
    return Scenario(tmp_path, nvml_library)


@pytest.fixture(scope="session")
def _reading(
    tmp_path_factory: pytest.TempPathFactory, nvml_library: Path
) -> Iterator[tuple[ReaderProcess, Path]]:
    folder = tmp_path_factory.mktemp("reading")
    reader = ReaderProcess(Scenario(folder, nvml_library, gpus=1))
    yield reader, folder
    reader.close()


@pytest.fixture
def scenario(_reading: tuple[ReaderProcess, Path], nvml_library: Path) -> Scenario:
    """One idle H200, which `reader` reads."""
    return Scenario(_reading[1], nvml_library, gpus=1)


@pytest.fixture
def reader(_reading: tuple[ReaderProcess, Path], scenario: Scenario) -> ReaderProcess:
    """The operations of the worker, in a process of their own for all tests."""
    assert scenario.path.exists()
    return _reading[0]
