"""Bytes on sockets: HTTP codec, upstream pool, servers, probes."""
