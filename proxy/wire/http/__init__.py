"""HTTP/1.1 as upstreams send it: heads, bodies, codings, header fields. Pure."""
