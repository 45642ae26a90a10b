"""Progress: a bar on a terminal, few plain lines in a log."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from presseco.progress import progress


def shown(terminal: bool, pause: float = 30.0, steps: int = 500) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100)
    with progress(console, "camembert-mini", pause=pause) as report:
        for i in range(steps):
            report("fine-tuning", i + 1, steps)
    return out.getvalue()


def test_log_gets_one_line_and_no_control_characters():
    text = shown(terminal=False)
    assert text == "camembert-mini fine-tuning: 1 of 500, 0 s\n"


def test_log_gets_a_line_every_pause():
    lines = shown(terminal=False, pause=0.0, steps=5).splitlines()
    assert [line.split(",")[0] for line in lines] == [
        f"camembert-mini fine-tuning: {i} of 5" for i in range(1, 6)
    ]


def test_brackets_in_a_name_are_not_markup():
    out = io.StringIO()
    with progress(Console(file=out), "[bold]x[/]", pause=0.0) as report:
        report("a [b] c", 1, 2)
    assert out.getvalue() == "[bold]x[/] a [b] c: 1 of 2, 0 s\n"


def test_terminal_gets_a_bar_that_ends_full():
    text = shown(terminal=True)
    assert "\x1b[" in text and "fine-tuning" in text and "100%" in text


@pytest.mark.parametrize("terminal", [True, False])
def test_errors_pass_through(terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal)
    with pytest.raises(ValueError, match="inside"), progress(console, "x") as report:
        report("a", 1, 2)
        raise ValueError("inside")
