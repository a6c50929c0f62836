"""The whole program for minutes or hours, under all that can happen at once.

`callers` ask for words that only their request can bring back. `accounts` is the upstream that
says them, or fails. `trouble` reloads, kills, starves and fills disks meanwhile. `soak` adds up
what both sides saw.
"""
