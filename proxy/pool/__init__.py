"""Who may use which client: the books of permits, queues and health, and the waits for a client."""
