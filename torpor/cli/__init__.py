"""Typer commands: they print, they never decide."""
