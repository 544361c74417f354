from __future__ import annotations

import pytest

from probes.bpf.hooks import CONSOLE, PRINTK_SPRINT, Hook, Printing
from probes.bpf.release import kernel_release


def printing(release: str, loglevel: int | None = 4, sprint: int | None = None) -> Printing:
    return Printing(release, kernel_release(release), loglevel, sprint)


@pytest.mark.parametrize(
    ("where", "hooks"),
    [
        (printing("6.18.0"), (CONSOLE,)),
        (printing("5.19.0", sprint=7), (CONSOLE,)),
        (printing("5.18.0", sprint=7), (PRINTK_SPRINT,)),
        (printing("5.18.0", 5, sprint=7), (PRINTK_SPRINT, CONSOLE)),
        (printing("5.15.0"), ()),
        (printing("5.15.0", None), ()),
        (printing("5.10.0", 7), (CONSOLE,)),
        (printing("a release that is no number", None), (CONSOLE,)),
    ],
    ids=lambda value: value.release if isinstance(value, Printing) else None,
)
def test_the_best_hook_of_a_kernel_comes_first_and_one_that_hears_no_xid_never(
    where: Printing, hooks: tuple[Hook, ...]
) -> None:
    assert where.hooks == hooks


def test_each_choice_has_its_reason() -> None:
    quiet = printing("5.15.0-25", sprint=7)
    assert "each line, and it is told who printed it" in (quiet.choice(PRINTK_SPRINT.name) or "")
    loud = printing("5.10.0-46", 7)
    assert "while the console log level (now 7) stays above 4" in (loud.choice(CONSOLE.name) or "")
    assert "each line as it is printed" in (printing("6.1.0").choice(CONSOLE.name) or "")
    assert loud.choice("kprobe of someone else") is None


def test_only_the_function_is_told_who_printed() -> None:
    assert PRINTK_SPRINT.facility
    assert not CONSOLE.facility
