"""The programs that Torpor is measured beside, and the backend and load generator that all are measured with.

`programs` builds what is written in Go, `process` starts a thing and waits for it, and the other modules know one thing
each: how to start it in front of a backend.
"""
