"""`python -m tests.security.audit`: known vulnerabilities of what the gateway runs on.

Asks PyPI's JSON API (docs.pypi.org/api/json, "Known vulnerabilities") for every installed package
that the project needs to run, as `pip-audit` does. A mirror that has no page for a version has one
for the newest: that says as much where the newest is what is installed. Exits with 1 for a known
vulnerability or a release that was withdrawn, with 2 if nothing could be asked for; a package that
could not be looked up is named.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from importlib import metadata
from typing import Any, NamedTuple

import requests
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from requests.adapters import HTTPAdapter
from urllib3 import Retry

PROJECT = "poolproxy"
INDEX = "https://pypi.org/pypi"
TIMEOUT_S = 20.0
RETRIES = Retry(3, backoff_factor=1, status_forcelist=[429, 500, 502, 503, 504])

# Takes a URL; its JSON, or None where there is no such page or no way to it.
Fetch = Callable[[str], Any]


class Finding(NamedTuple):
    """`problems`: empty if none is known; None if nothing could be learnt."""

    name: str
    version: str
    problems: list[str] | None


def needed(project: str = PROJECT) -> dict[str, str]:
    """The versions of all that is installed because the project needs it, itself left out."""
    found: dict[str, str] = {}
    left = [(project, frozenset[str]())]
    while left:
        name, extras = left.pop()
        for text in metadata.requires(name) or ():
            requirement = Requirement(text)
            own = canonicalize_name(requirement.name)
            marker = requirement.marker
            if marker and not any(marker.evaluate({"extra": extra}) for extra in {"", *extras}):
                continue
            if own not in found:
                found[own] = metadata.version(own)
                left.append((own, frozenset(requirement.extras)))
    return found


def look_up(name: str, version: str, fetch: Fetch) -> Finding:
    """What is known of one release."""
    page = fetch(f"{INDEX}/{name}/{version}/json")
    if page is None:
        page = fetch(f"{INDEX}/{name}/json")
        if page is None or page["info"]["version"] != version:
            return Finding(name, version, None)
    known = [each for each in page["vulnerabilities"] if not each.get("withdrawn")]
    problems = [f"{each['id']}: {each.get('summary') or each.get('link')}" for each in known]
    if page["info"].get("yanked"):
        problems.append(f"withdrawn: {page['info'].get('yanked_reason')}")
    return Finding(name, version, problems)


def judge(findings: Iterable[Finding]) -> int:
    """Print what was found; the exit status."""
    found = list(findings)
    for name, version, problems in found:
        state = "not known here" if problems is None else "; ".join(problems) or "none known"
        print(f"{name} {version}: {state}")
    audited = [finding for finding in found if finding.problems is not None]
    bad = [finding for finding in audited if finding.problems]
    print(f"{len(audited)} of {len(found)} packages audited, {len(bad)} with known problems")
    if bad:
        return 1
    return 0 if audited else 2


def fetch_json(url: str) -> Any:
    """As `Fetch`."""
    with requests.Session() as session:
        session.mount(INDEX, HTTPAdapter(max_retries=RETRIES))
        try:
            answer = session.get(url, timeout=TIMEOUT_S)
        except requests.RequestException:
            return None
        return answer.json() if answer.status_code == 200 else None


if __name__ == "__main__":
    sys.exit(judge(look_up(name, version, fetch_json) for name, version in needed().items()))
