"""deploy/config.toml: every setting is in it, as the daemon understands it."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

import pytest

from daemon.config import SETTINGS, Config, load
from daemon.settings import METADATA, Setting
from tests.deploy import config_toml

_FIELD_OF = {field.metadata[METADATA].name: field.name for field in dataclasses.fields(Config)}


def test_it_is_what_the_settings_say() -> None:
    regenerate = "out of date: python -m tests.deploy.config_toml"
    assert config_toml.FILE.read_text() == config_toml.text(), regenerate


def test_as_it_is_it_changes_nothing() -> None:
    assert tomllib.loads(config_toml.FILE.read_text()) == {}
    assert load({}, {}, config_toml.FILE) == Config()


def test_without_the_comment_signs_it_is_toml_with_every_setting() -> None:
    lines = config_toml.FILE.read_text().splitlines()
    settings = [line.removeprefix("#") for line in lines if line.startswith("#") and line[1:2].isalpha()]
    assert set(tomllib.loads("\n".join(settings))) == {setting.name for setting in SETTINGS}


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_each_line_alone_loads_and_shows_the_default(setting: Setting, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(config_toml.line_of(setting))
    config = load({}, {}, file)
    if config_toml.has_fixed_default(setting):
        assert config == Config()
    else:
        field = _FIELD_OF[setting.name]
        assert getattr(config, field) == setting.parse(tomllib.loads(file.read_text())[setting.name])
