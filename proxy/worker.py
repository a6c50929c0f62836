"""The name by which gunicorn knows the worker: `worker_class = "proxy.worker.Worker"`."""

from .server.worker import Worker

__all__ = ["Worker"]
