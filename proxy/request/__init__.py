"""One request's way: its attempts, their waits and verdicts, and the stream that comes of them."""
