"""What Gemini's generateContent refuses: each rule once, with the source that says so.

`violations(request, model=...)` names every rule that a translated request breaks. google-genai's
types check the shapes (tests/support/gemini_upstream.py); here is what they do not know. Sources
are Google's pages, else its answers as users reported them; all read 2026-11.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Any

from proxy.wire.gemini.models import family_of

Json = dict[str, Any]

# Part.data is a union: exactly one of these (ai.google.dev/api/caching#Part).
DATA = {
    "text",
    "inlineData",
    "fileData",
    "functionCall",
    "functionResponse",
    "toolCall",
    "toolResponse",
}
# ai.google.dev/gemini-api/docs/function-calling: "start with a letter or an underscore and contain
# only a-z, A-Z, 0-9, underscores, dots or dashes, with a maximum length of 64". Some models take
# colons too (google-gemini/gemini-cli#9535), others do not (#7878).
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
# "Multimodal function responses" on the same page.
IN_RESULTS = {"image/png", "image/jpeg", "image/webp", "application/pdf", "text/plain"}
# GenerationConfig.responseJsonSchema in ai.google.dev/api/generate-content: what it reads.
KEYWORDS = {
    *("type", "format", "title", "description", "enum", "items", "prefixItems", "minItems"),
    *("maxItems", "minimum", "maximum", "anyOf", "properties", "additionalProperties"),
    *("required", "propertyOrdering"),
}
TYPES = {"string", "number", "integer", "boolean", "array", "object", "null"}
# Types that are written and not registered: 400 "Unsupported MIME type" (cherry-studio#3088).
MISSPELT = {"image/jpg", "image/pjpeg", "image/x-png", "audio/x-wav", "application/x-pdf"}


def violations(request: Json, *, model: str) -> list[str]:
    """Every rule that the request breaks, in words."""
    return [*_turns(request["contents"], model), *_tools(request, model), *_config(request)]


def _turns(contents: list[Json], model: str) -> Iterator[str]:
    kinds = [_kind(content) for content in contents]
    # "Please ensure that multiturn requests begin and end with a user turn or a function response"
    # (crewAIInc/crewAI#6973, diegosouzapw/OmniRoute#13573)
    if not kinds or kinds[0] not in ("user",):
        yield "the first turn is not the user's"
    if kinds and kinds[-1] == "model":
        yield "the last turn is the model's"
    for number, content in enumerate(contents):
        at = f"contents[{number}]"
        yield from _parts(content, at, model)
        before = kinds[number - 1] if number else ""
        after = kinds[number + 1] if number + 1 < len(kinds) else ""
        if kinds[number] == "model" and before == "model":
            yield f"{at}: two turns of the model in a row"
        if kinds[number] == "user" and before == "user":
            yield f"{at}: two turns of the user in a row"
        if kinds[number] == "results" and not (number and _calls(contents[number - 1])):
            # "Please ensure that function response turn comes immediately after a function call
            # turn" (GoogleCloudPlatform/generative-ai#368)
            yield f"{at}: results without calls before them"
        if _calls(content):
            if after != "results":
                yield f"{at}: calls without results behind them"
            else:
                yield from _pairs(content, contents[number + 1], at, model)
    yield from _signatures(contents, kinds, model)


def _kind(content: Json) -> str:
    parts = content.get("parts") or []
    if content.get("role") == "model":
        return "model"
    answers = ["functionResponse" in part for part in parts]
    if answers and all(answers):
        return "results"
    return "mixed" if any(answers) else "user"


def _calls(content: Json) -> list[Json]:
    return [part["functionCall"] for part in content["parts"] if "functionCall" in part]


def _pairs(content: Json, following: Json, at: str, model: str) -> Iterator[str]:
    made = _calls(content)
    results = [part["functionResponse"] for part in following["parts"]]
    # "Please ensure that the number of function response parts is equal to the number of function
    # call parts of the function call turn" (google-gemini/gemini-cli#3814)
    if len(made) != len(results):
        yield f"{at}: {len(made)} calls and {len(results)} results"
    if [call["name"] for call in made] != [found["name"] for found in results]:
        yield f"{at}: results are not in the order of their calls"
    ids = [call.get("id") for call in made]
    # ai.google.dev/gemini-api/docs/gemini-3: each call has an id, and its result the same one.
    if family_of(model).matches_call_ids and (
        None in ids or ids != [found.get("id") for found in results] or len(set(ids)) < len(ids)
    ):
        yield f"{at}: the ids do not tell which result is whose"


def _parts(content: Json, at: str, model: str) -> Iterator[str]:
    family = family_of(model)
    if content.get("role") not in ("user", "model"):
        # "Please use a valid role: user, model"
        yield f"{at}: role {content.get('role')!r}"
    if not content.get("parts"):
        yield f"{at}: no parts"
    if _kind(content) == "mixed":
        yield f"{at}: results and other parts"
    for number, part in enumerate(content.get("parts") or []):
        where = f"{at}.parts[{number}]"
        if len(DATA & part.keys()) != 1:
            # "required oneof field 'data' must have one initialized field"
            yield f"{where}: not one kind of data but {sorted(part)}"
        if part.get("text") == "":
            # "Unable to submit request because it must have a text parameter"
            yield f"{where}: empty text"
        if "inlineData" in part:
            yield from _blob(part["inlineData"], where)
        uri = part.get("fileData", {}).get("fileUri", "https:")
        if not uri.lower().startswith("https:") or ("fileData" in part and not family.fetches_urls):
            # ai.google.dev/gemini-api/docs/file-input-methods
            yield f"{where}: a URL that is not fetched"
        signature = part.get("thoughtSignature")
        if signature is not None and not _is_base64(signature) and "_" not in signature:
            yield f"{where}: thoughtSignature is no base64"
        if "functionCall" in part and not isinstance(part["functionCall"].get("args"), dict):
            yield f"{where}: args is no object"
        for kind in ("functionCall", "functionResponse"):
            if kind in part and not NAME.fullmatch(part[kind]["name"]):
                yield f"{where}: name {part[kind]['name']!r}"
        inside = part.get("functionResponse", {}).get("parts", [])
        if inside and not family.media_in_results:
            yield f"{where}: media in a result before Gemini 3"
        for blob in inside:
            yield from _blob(blob["inlineData"], where)
            if blob["inlineData"]["mimeType"] not in IN_RESULTS:
                yield f"{where}: {blob['inlineData']['mimeType']} in a result"


def _blob(blob: Json, where: str) -> Iterator[str]:
    kind = blob["mimeType"]
    if kind in MISSPELT or kind != kind.lower() or "/" not in kind:
        yield f"{where}: media type {kind!r}"
    if not _is_base64(blob["data"]):
        # "Invalid value at '...inline_data.data' (TYPE_BYTES), Base64 decoding failed"
        yield f"{where}: data is no base64"


def _is_base64(data: str) -> bool:
    try:
        base64.b64decode(data, validate=True)
    except binascii.Error:
        return False
    return True


def _signatures(contents: list[Json], kinds: list[str], model: str) -> Iterator[str]:
    """ai.google.dev/gemini-api/docs/thought-signatures: from the last turn of the user on, the
    first call of each step has its signature, else 400 "Function call is missing a
    thought_signature".
    """
    if not family_of(model).validates_signatures:
        return
    start = max((n for n, kind in enumerate(kinds) if kind == "user"), default=0)
    for number in range(start, len(contents)):
        made = [part for part in contents[number]["parts"] if "functionCall" in part]
        if made and not made[0].get("thoughtSignature"):
            yield f"contents[{number}]: a call without its signature"


def _tools(request: Json, model: str) -> Iterator[str]:
    tools = request.get("tools", [])
    declared = [f for tool in tools for f in tool.get("functionDeclarations", [])]
    names = [function["name"] for function in declared]
    searches = any("googleSearch" in tool for tool in tools)
    config = request.get("toolConfig", {})
    is_old = family_of(model).version < (3, 0)
    for name in names:
        if not NAME.fullmatch(name):
            yield f"tools: name {name!r}"
    if len(set(names)) < len(names):
        # "Duplicate function declaration found"
        yield f"tools: a name twice in {names}"
    allowed = config.get("functionCallingConfig", {}).get("allowedFunctionNames", [])
    if not set(allowed) <= set(names):
        # "allowed_function_names should be a subset of the declared functions"
        yield f"toolConfig: {allowed} is not declared"
    if searches and declared and is_old:
        # "Multiple tools are supported only when they are all search tools"
        yield "tools: functions beside a search before Gemini 3"
    if searches and declared and not config.get("includeServerSideToolInvocations"):
        # cloudwego/eino-ext#761, firebase/genkit#4970
        yield "tools: functions beside a search without includeServerSideToolInvocations"
    if tools and is_old and "responseMimeType" in request.get("generationConfig", {}):
        # "Function calling with a response mime type: 'application/json' is unsupported"
        # (symfony/ai#1777)
        yield "tools: a response format beside tools before Gemini 3"
    for function in declared:
        schema = function.get("parametersJsonSchema")
        if schema is not None:
            if schema.get("type") != "object":
                # "parameters schema should be of type OBJECT"
                yield f"{function['name']}: the parameters are no object"
            yield from schema_violations(schema, function["name"])


def _config(request: Json) -> Iterator[str]:
    config = request.get("generationConfig", {})
    if "" in config.get("stopSequences", []):
        yield "stopSequences: an empty one"
    if "responseJsonSchema" in config:
        yield from schema_violations(config["responseJsonSchema"], "responseJsonSchema")


def schema_violations(schema: Any, at: str) -> Iterator[str]:
    """What a `...JsonSchema` field does not read, or refuses, in a schema and all below it."""
    if not isinstance(schema, dict):
        yield f"{at}: {schema!r} is no object"
        return
    if unread := schema.keys() - KEYWORDS:
        yield f"{at}: {sorted(unread)} is not read"
    kinds = schema.get("type", [])
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if kind not in TYPES:
            yield f"{at}: type {kind!r}"
    for value in schema.get("enum", ["x"]) or [None]:
        # "enum: strings and numbers"; "enum[0]: cannot be empty"
        if isinstance(value, bool) or not isinstance(value, str | int | float) or value == "":
            yield f"{at}: enum of {value!r}"
    properties = schema.get("properties", {})
    for key in ("required", "propertyOrdering"):
        if not set(schema.get(key, [])) <= properties.keys():
            # "required[0]: property is not defined"
            yield f"{at}: {key} names what is no property"
    below: list[tuple[str, Any]] = list(properties.items())
    for key in ("anyOf", "prefixItems"):
        if key in schema:
            if not schema[key]:
                yield f"{at}: {key} is empty"
            below += [(f"{key}[{n}]", inner) for n, inner in enumerate(schema[key])]
    below += [("items", schema["items"])] if "items" in schema else []
    others = schema.get("additionalProperties")
    below += [("additionalProperties", others)] if isinstance(others, dict) else []
    for name, inner in below:
        yield from schema_violations(inner, f"{at}.{name}")
