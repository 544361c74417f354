"""What is installed from outside is pinned, and comes from whatever registry the machine uses."""

from __future__ import annotations

import json
import re

from tests.clients.installed import HERE


def test_the_npm_lock_pins_every_package_by_hash_and_names_no_registry() -> None:
    text = (HERE / "npm" / "package-lock.json").read_text(encoding="utf-8")
    packages = json.loads(text)["packages"]
    assert all("integrity" in package for name, package in packages.items() if name)
    assert '"resolved"' not in text


def test_the_lock_of_the_older_python_sdk_pins_every_package_by_hash_and_names_no_registry() -> None:
    text = (HERE / "requirements-1.x.lock").read_text(encoding="utf-8")
    entries = re.split(r"\n(?=\S)", text)
    assert any(entry.startswith("mcp==1.") for entry in entries)
    assert all("==" in entry and "--hash=sha256:" in entry for entry in entries)
    assert "://" not in text
