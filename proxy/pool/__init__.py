"""The pool: who may use which client, and who waits for one.

Each client has a lock with `max-concurrency` permits; a lease is one permit held. A request asks
with a ticket and waits in the order of arrival. A permit that comes free goes straight to the first
waiter who could use it, so that nobody overtakes. The rest of the program imports from here only.

The nouns, from the request inwards:

- `ClientPool`, lends clients, to the threads of one process;
- `Ticket`, a request's claim: its rank, and what it has tried;
- `Lease`, the right to send one request with one client;
- `ClientLock`, a client's permits, by the leases that hold them;
- `Line`, the queues that wait for a client;
- `ModelQueue`, the waiters for one model, and the order of its clients: round robin by weight;
- `Tier`, the clients of one priority, and a session's order of them;
- `Offer`, a client's place in that order;
- `Health`, what a client is fit for with one model, made of a `Breaker` for each kind of failure;
- `State` and `Standing`, that fitness and when it ends; `Effect`, how an attempt changes it.

    READY ──429──> COOLING ──time──> ON_TRIAL ──request──> TRYING ──2xx, or 2 s──> READY
      │               ^                                      ├──429──> COOLING, longer
      │               │                                      └──undecided──> ON_TRIAL
      ├──5xx, transport──> RESTING ──time──> READY
      └──401 (client), 402 (client and model)──> OUT ──time──> ON_TRIAL

Order of locks: `ClientPool._lock` is the innermost. Whoever holds it takes no other lock, and
neither waits, wakes, logs nor calls back. Client locks are books, not locks of the interpreter's:
one mutex guards them all, so that a choice among them and the hand-off to a waiter are one step.
"""

from __future__ import annotations

from .client_lock import ClientLease as Lease
from .client_lock import Ticket
from .health import Effect, doubling
from .pool import ClientPool

__all__ = ["ClientPool", "Effect", "Lease", "Ticket", "doubling"]
