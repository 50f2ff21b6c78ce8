"""API groups as values: keys, names, defaults, validation, conditions, CRD schemas."""
