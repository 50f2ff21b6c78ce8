"""What CI runs; each session is one line you can paste.

`make test` runs them all with `--no-venv` inside `.venv`, so that nothing is installed twice.
"""

import nox

nox.options.sessions = ["lint", "types", "imports", "test"]

QUICK = ["tests/unit", "tests/property", "tests/vectors", "tests/fuzz"]
PLATFORM = ["tests/integration/platform", "tests/conformance/serving"]
WHOLE = ["tests/conformance", "tests/integration", *(f"--ignore={folder}" for folder in PLATFORM)]


@nox.session
def lint(session: nox.Session) -> None:
    """Format and lint."""
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """mypy --strict on every package."""
    session.run("mypy")


@nox.session
def imports(session: nox.Session) -> None:
    """Who may import whom."""
    session.run("lint-imports", "--no-cache")


@nox.session
def test(session: nox.Session) -> None:
    """Every test, the quick ones first and on two cores; arguments after -- replace the selection.

    The others start servers and processes; those of one file share what they start, so a file stays on one core. Whole
    platforms come last and one at a time: each uses both cores.
    """
    if session.posargs:
        session.run("python", "-m", "pytest", *session.posargs)
        return
    session.run("python", "-m", "pytest", "-q", "-n", "2", "--dist", "worksteal", *QUICK)
    session.run("python", "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", *WHOLE)
    session.run("python", "-m", "pytest", "-q", "--durations", "10", *PLATFORM)
