"""Progress: in a log a line every ten seconds, with the time that is left; failures at once."""

from harness.progress import Progress


def run(total, seconds, images=4, failing=()):
    """The lines of a stage whose units take so long each."""
    clock, lines = [0.0], []
    progress = Progress("generate", total, lines.append, lambda: clock[0])
    for i in range(total):
        clock[0] += seconds
        progress.step(f"unit{i}", images, "out of memory" if i in failing else "")
    return lines


def test_a_log_has_a_line_every_ten_seconds_and_the_last():
    lines = run(360, 1)
    assert len(lines) == 36
    assert lines[0] == "generate 10/360, 4.0 images/s, 5:50 left"
    assert lines[-1] == "generate 360/360, 4.0 images/s, took 6:00"


def test_slow_units_are_told_one_by_one_and_quick_stages_once():
    assert len(run(5, 60)) == 5
    assert run(5, 0.1) == ["generate 5/5, 40.0 images/s, took 0:00"]
    assert run(1, 4000, images=0) == ["generate 1/1, took 1:06:40"]


def test_a_failure_is_told_at_once():
    lines = run(5, 0.1, failing=(1, 4))
    assert lines == [
        "generate 2/5 unit1 failed: out of memory",
        "generate 5/5 unit4 failed: out of memory",
    ]
    assert run(0, 1) == []


def test_a_terminal_has_a_bar_that_ends_in_a_line(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert run(2, 1) == []
    shown = capsys.readouterr().err
    assert shown.count("\r") == 2
    assert shown.endswith("2/2, 4.0 images/s, took 0:02\n")
    assert "█" * 12 + "░" * 12 in shown
