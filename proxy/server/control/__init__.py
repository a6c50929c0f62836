"""Asks running workers for their state and gives them orders, over a Unix socket for each worker.

Each worker has a pool of its own. So each has a socket, and a question goes to all of them:

    $XDG_RUNTIME_DIR, else $TMPDIR, else /tmp/poolproxy-<uid>/<port>-<pid>.sock

An HTTP endpoint would reach any one worker, and need a key of its own. Here the directory is its
user's alone (mode 0700), and that is the authentication; a service has one of its own (`sockets`).
One line of JSON each way, then the connection ends. Whoever finds a dead socket removes it.
"""
