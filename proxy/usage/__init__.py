"""What callers have used: counted by the day and for Prometheus, and limited for each of them."""
