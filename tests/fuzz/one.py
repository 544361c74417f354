"""`python -m tests.fuzz.one TARGET …`: one target under atheris, which looks for inputs that reach new code.

What follows the name are options and folders of libFuzzer. Needs atheris: `make fuzz` has it installed.
"""

from __future__ import annotations

import sys

import atheris  # type: ignore[import-untyped]  # no part of .venv; its stubs are not worth a lock

from tests.fuzz.targets import TARGETS


def main(name: str, options: list[str]) -> None:
    """Does not return: libFuzzer ends the process."""
    target = TARGETS[name]
    # Comparisons of text would hide what is compared with. (Its hook for patterns fails on possessive ones.)
    atheris.enabled_hooks.add("str")
    with atheris.instrument_imports(include=list(target.about)):
        check = target.load()
    atheris.Setup([sys.argv[0], f"-max_len={target.longest}", *options], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
