"""What is kept of a request: its record, and its transcript if the configuration asks for one."""
