"""Pure functions from a parent object to the manifest of a child."""
