"""What the server says at its start."""

from __future__ import annotations

from ..config import Config


def summary(config: Config, addresses: list[str], *, workers: int, threads: int) -> str:
    """What is being served, in a few lines."""
    access = f"{len(config.callers)} callers' keys" if config.callers else "open, this machine only"
    if not config.callers and config.allow_unauthenticated:
        access = "open to everybody (allow-unauthenticated)"
    lines = [f"poolproxy on {', '.join(addresses)} ({access})"]
    for provider in dict.fromkeys(client.provider for client in config.clients):
        clients = [client for client in config.clients if client.provider == provider]
        models = {model.alias for client in clients for model in client.models or ()}
        permits = [client.max_concurrency for client in clients]
        lines.append(
            f"  {provider}: {_count(len(clients), 'client')}, "
            + (_count(len(models), "model") if models else "the upstream's models")
            + f", {'unlimited' if 0 in permits else _in_all(sum(permits), workers)} at once"
        )
    lines += [f"  {provider}: off, {reason}" for provider, reason in config.providers_off]
    lines.append(
        f"  {_count(workers, 'worker')} of {threads} threads: "
        f"{config.max_requests_in_flight} requests in flight at most, each"
    )
    lines += [f"  warning: {warning}" for warning in config.warnings]
    return "\n".join(lines)


def _in_all(permits: int, workers: int) -> str:
    """Each worker has a pool of its own."""
    return str(permits) if workers == 1 else f"{permits * workers} ({permits} per worker)"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
