"""HTTP/2 (RFC 9113) as a relay of frames: `frames`, `compression` and `headers` for both sides, `server` for clients,
`upstream` for apps and pods, with `address` as the pool's entry for one of these.

A proxy needs no full state machine of the protocol: it reads a frame, knows the exchange it belongs to, and passes on
what it means. What is cheap for us is that peers repeat themselves: a header block whose bytes repeat against an
unchanged table decodes to the same head (with everything that a proxy's layers derived from it), and what we send is
encoded without table state, so that it can be kept as bytes.
"""
