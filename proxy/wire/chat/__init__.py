"""OpenAI chat completions: what is read of requests, answers, chunks and errors.

Everything that is not read here passes through as the bytes it came in. Source of the shapes:
platform.openai.com/docs/api-reference/chat and /streaming, read 2026-11; the openai SDK's types.
"""

from .errors import ErrorFacts, envelope, error_body, error_event
from .fields import choices_asked, read_any, read_fields, without_reasoning
from .names import CallersNames
from .reply import (
    chunks_of,
    objects,
    read_answer,
    read_error,
    read_named_error,
    read_object,
    read_retry_info,
    unlisted,
)
from .request import HUB, HUB_COUNT, ChatRequest, Speech, read_request
from .stream import ChunkStream
from .usage import Usage, usage_object

__all__ = ["HUB", "HUB_COUNT", "CallersNames", "ChatRequest", "ChunkStream", "ErrorFacts", "Speech"]
__all__ += ["Usage", "choices_asked", "chunks_of", "envelope", "error_body", "error_event"]
__all__ += ["objects", "read_answer", "read_any", "read_error", "read_fields", "read_named_error"]
__all__ += ["read_object", "read_request", "read_retry_info", "unlisted", "usage_object"]
__all__ += ["without_reasoning"]
