"""One pool over many processes and hosts: its books are kept by functions in a Redis or Valkey.

`books` is the pool as a process sees it, `connection` the way to the server. The rules are in
`books.lua`, those of `health` and `queue` among them: tests hold both to one model.
"""
