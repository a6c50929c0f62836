"""What is kept of a request: its record, and its transcript where that is asked for."""
