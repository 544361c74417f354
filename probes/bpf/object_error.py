"""The one error of reading a BPF object file."""

from __future__ import annotations


class ObjectError(ValueError):
    """The file is no BPF object that these loaders can use; the message says why."""
