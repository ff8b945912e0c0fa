"""What the comparisons of runtimes found, shown at the end of the run."""

import pytest

_FOUND = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def largest_differences(request: pytest.FixtureRequest) -> list[str]:
    """Lines to show at the end."""
    return request.config.stash.setdefault(_FOUND, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show them."""
    if found := config.stash.get(_FOUND, []):
        terminalreporter.section("largest differences")
        for line in found:
            terminalreporter.write_line(line)
