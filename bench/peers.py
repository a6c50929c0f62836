"""Other gateways to compare with, installed on demand into a cache of the benchmark's own.

The versions are pinned: a benchmark must not run whatever was published last. (Of LiteLLM, 1.82.7
and 1.82.8 were compromised and the 1.107 line was withdrawn.)
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from bench import messages
from bench.processes import BenchError
from bench.targets import RECIPES, Launch, Site, free_port

LITELLM = "1.100.5"
PORTKEY = "1.15.2"
VLLM_ROUTER = "0.1.17"
# With a later one, 1.19.19 for instance, Portkey answers every stream with status 500: it appends
# to the headers of a fetched response, which are immutable (fetch.spec.whatwg.org, Headers guard).
_PORTKEY_PACKAGE = {
    "private": True,
    "dependencies": {"@portkey-ai/gateway": PORTKEY},
    "overrides": {"@hono/node-server": "1.13.8"},
}

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "poolproxy-bench"
_LITELLM_HOME = _CACHE / f"litellm-{LITELLM}"
_VLLM_ROUTER_HOME = _CACHE / f"vllm-router-{VLLM_ROUTER}"
_PORTKEY_HOME = _CACHE / f"portkey-{PORTKEY}"
_PORTKEY_START = _PORTKEY_HOME / "node_modules/@portkey-ai/gateway/build/start-server.js"


def install(name: str) -> None:
    """Install a peer if it isn't yet, and make it a target. Raises BenchError if that fails."""
    if name not in _PEERS:
        raise BenchError(f"unknown peer {name!r}; there are {', '.join(_PEERS)}")
    home, commands, recipe = _PEERS[name]
    done = home / ".installed"
    if not done.exists():
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        print(f"installing {name} into {home}", flush=True)
        for argv in commands():
            if subprocess.run(argv, stdout=subprocess.DEVNULL, cwd=home, check=False).returncode:
                raise BenchError(f"{name} could not be installed: {' '.join(argv)}")
        done.touch()
    RECIPES[name] = recipe


def _by_pip(home: Path, package: str) -> list[list[str]]:
    pip = [str(home / "bin/python"), "-m", "pip", "install", "--quiet"]
    return [[sys.executable, "-m", "venv", str(home)], [*pip, "--only-binary=:all:", package]]


def _install_litellm() -> list[list[str]]:
    return _by_pip(_LITELLM_HOME, f"litellm[proxy]=={LITELLM}")


def _litellm(site: Site) -> Launch:
    pool = site.pool
    # One account is least work for it; several where each takes one request at a time.
    accounts: list[dict[str, object]] = [{"api_key": pool.keys[0]}]
    if pool.permits == 1:
        accounts = [{"api_key": key, "max_parallel_requests": 1} for key in pool.keys]
    served = [(name, f"openai/{name}", f"{site.upstream}/v1") for name in messages.MODELS]
    if pool.translates:
        served.append((messages.CLAUDE, f"anthropic/{messages.CLAUDE}", site.upstream))
    models = [
        {"model_name": name, "litellm_params": {"model": model, "api_base": base, **account}}
        for name, model, base in served
        for account in accounts
    ]
    config = site.directory / "litellm.yaml"
    config.write_text(json.dumps({"model_list": models}))  # JSON is YAML
    return Launch(
        [
            *(str(_LITELLM_HOME / "bin/litellm"), "--config", str(config)),
            *("--host", "127.0.0.1", "--port", str(site.port)),
            *("--num_workers", str(site.workers)),
        ],
        env={"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"},
        cwd=site.directory,
        ready_path="/health/liveliness",
    )


def _install_portkey() -> list[list[str]]:
    npm = shutil.which("npm")
    if npm is None:
        raise BenchError("portkey needs npm")
    (_PORTKEY_HOME / "package.json").write_text(json.dumps(_PORTKEY_PACKAGE))
    return [[npm, "install", "--silent", "--no-audit", "--no-fund"]]


def _portkey(site: Site) -> Launch:
    return Launch(
        ["node", str(_PORTKEY_START), f"--port={site.port}", "--headless"],
        env={"NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1"},
        cwd=site.directory,
        ready_path="/",
        headers={
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": f"{site.upstream}/v1",
        },
        model_headers={messages.CLAUDE: {"x-portkey-provider": "anthropic"}},
    )


def _install_vllm_router() -> list[list[str]]:
    return _by_pip(_VLLM_ROUTER_HOME, f"vllm-router=={VLLM_ROUTER}")


def _vllm_router(site: Site) -> Launch:
    """It passes the caller's key on, where the others put in an account's."""
    return Launch(
        [
            *(str(_VLLM_ROUTER_HOME / "bin/vllm-router"), "--worker-urls", site.upstream),
            *("--host", "127.0.0.1", "--port", str(site.port)),
            *("--prometheus-port", str(free_port()), "--policy", "round_robin"),
            *("--log-level", "warning"),
        ],
        cwd=site.directory,
        ready_path="/health",
    )


_PEERS: dict[str, tuple[Path, Callable[[], list[list[str]]], Callable[[Site], Launch]]] = {
    "litellm": (_LITELLM_HOME, _install_litellm, _litellm),
    "portkey": (_PORTKEY_HOME, _install_portkey, _portkey),
    "vllm-router": (_VLLM_ROUTER_HOME, _install_vllm_router, _vllm_router),
}
NAMES = tuple(_PEERS)
