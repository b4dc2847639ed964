"""Says at the end which runtimes were missing, and where a private namespace was not to be had: nothing is green in silence."""

import worlds


def pytest_terminal_summary(terminalreporter):
    skipped = {str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", []) if "tests/distributed" in report.nodeid}
    for note in sorted(skipped | worlds.NOTES):
        terminalreporter.write_line(f"distributed: {note.removeprefix('Skipped: ')}")
