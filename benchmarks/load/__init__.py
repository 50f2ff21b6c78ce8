"""Load generators, none of which is ours except where others lack something, and what each reports."""
