"""A file system on which writing is an uninterruptible sleep, as a call on a sick GPU is."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_TOOLS = ("mkfs.ext4", "mount", "umount", "fsfreeze")


class Frozen:
    """The frozen file system at `path`: whoever writes there sleeps until `thaw`, whatever is sent to him."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._cold = False

    def freeze(self) -> None:
        """Let writers sleep from now on."""
        subprocess.run(["fsfreeze", "-f", self.path], check=True, capture_output=True)
        self._cold = True

    def thaw(self) -> None:
        """Wake them."""
        if self._cold:
            self._cold = False
            subprocess.run(["fsfreeze", "-u", self.path], check=True, capture_output=True)


@contextmanager
def frozen_file_system(folder: Path) -> Iterator[Frozen]:
    """A small ext4 on a loop device, frozen. Skips the test where that cannot be made."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = [tool for tool in _TOOLS if shutil.which(tool, path=path) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"a frozen file system needs root and {', '.join(missing or _TOOLS)}")
    image, mounted = folder / "ext4.img", folder / "ext4"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(8 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True, env={**os.environ, "PATH": path})
    done = subprocess.run(
        ["mount", "-o", "loop", image, mounted], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"no loop device can be mounted here: {done.stderr.strip()}")
    frozen = Frozen(mounted)
    try:
        frozen.freeze()
        yield frozen
    finally:
        frozen.thaw()
        subprocess.run(["umount", "--lazy", mounted], check=True)
