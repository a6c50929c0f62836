"""What callers speak: their requests read, answers, streams and errors put in their words. Pure."""
