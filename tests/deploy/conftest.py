"""Helm, kubectl and Kubernetes' schemas; what cannot be had here skips with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.chart import Checked, Helm, Schemas, schemas
from tests.deploy.modes import COMBINATIONS
from tests.deploy.tools import binaries, schemas_python
from tests.support.installed import UnavailableError


@pytest.fixture(scope="session", params=["3", "4"], ids=["helm 3", "helm 4"])
def helm(request: pytest.FixtureRequest) -> Helm:
    """Each helm in turn."""
    return _helm(request.param)


@pytest.fixture(scope="session")
def helm_4() -> Helm:
    """For what does not depend on helm."""
    return _helm("4")


def _helm(major: str) -> Helm:
    try:
        binaries(major)
    except UnavailableError as error:
        pytest.skip(f"no helm {major}: {error}")
    return Helm(major)


@pytest.fixture(scope="session")
def kubernetes() -> Iterator[Schemas]:
    """Kubernetes' schemas."""
    try:
        schemas_python()
    except UnavailableError as error:
        pytest.skip(f"no schemas of Kubernetes: {error}")
    with schemas() as running:
        yield running


@pytest.fixture(scope="session")
def rendered(helm_4: Helm, kubernetes: Schemas) -> dict[str, Checked]:
    """Every combination of modes, as helm 4 renders it."""
    return {name: kubernetes.check(helm_4.template(values)) for name, values in COMBINATIONS.items()}


@pytest.fixture(scope="session")
def kubectl() -> Path:
    """A real kubectl."""
    try:
        return binaries("4").kubectl
    except UnavailableError as error:
        pytest.skip(f"no kubectl: {error}")
