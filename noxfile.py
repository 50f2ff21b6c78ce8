"""What CI runs; each session is one line you can paste.

`make test` runs them all with `--no-venv` inside `.venv`, so that nothing is installed twice.
"""

import nox

nox.options.sessions = ["lint", "types", "imports", "test"]


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
    """Every test; arguments after -- replace the selection."""
    session.run("python", "-m", "pytest", *(session.posargs or ["tests"]))
