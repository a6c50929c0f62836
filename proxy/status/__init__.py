"""What an operator sees: the clients, the queue, the last hour, and what is wrong now.

For `poolproxy status`, and for the page at `/status`. Nothing that serves a request imports it.

worker    one process's facts as plain data, and the orders that it obeys
overview  the facts of all processes as one, and what is wrong in words
"""
