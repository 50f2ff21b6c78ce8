"""The original's own performance tests in shape and pass line, on `torpor up`, at rates that two processors carry.

Generator, platform, pods and control share the machine. Each prints the original's line and what was measured.
"""
