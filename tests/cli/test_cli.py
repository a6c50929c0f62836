"""The command line: what it prints, how it ends, what it does to a running instance."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.cli import main
from proxy.cli.arguments import parser
from proxy.cli.terminal import Exit, Failure, table
from proxy.config import count, load_config, names
from proxy.config.check import unwrap
from proxy.config.schema import Settings
from proxy.config.wording import printable
from proxy.errors import ConfigError
from proxy.server.addresses import _why_not_unix
from proxy.server.hooks import summary
from tests.support.commandline import COMMAND, Instance, Shell, provider, serving, wait_for
from tests.support.gateway import PATIENCE_S, ROOT, START_S
from tests.support.key_tables import fields_of
from tests.support.server import free_port
from tests.support.upstream import MODEL, Received, Reply, Upstream, json_reply

GOOD = "sk-good-0123456789-aaaa"
BAD = "sk-bad-0123456789-bbbb"
COLD = "sk-cold-0123456789-cccc"
CALLER = "caller-0123456789-dddd"
SECRETS = (GOOD, BAD, COLD, CALLER)

OPEN = "(open, this machine only: set api-keys before you put anything in front)"


@pytest.fixture
def shell() -> Iterator[Shell]:
    """One with the demo provider only."""
    with Shell({"port": 0, "demo": [{"name": "demo"}]}, secrets=SECRETS) as place:
        yield place


# check


def test_check_prints_what_would_be_served(shell: Shell) -> None:
    """Clients masked, models under both names, callers masked, limits, warnings; status 0."""
    models = [{"name": "vendor/kimi", "alias": "kimi"}]
    shell.write(
        {
            "port": 8317,
            "api-keys": [{"name": "team", "key": CALLER, "models": ["kimi"]}],
            "queue-timeout": 7,
            "openai-compatibility": [provider("alpha", "https://a.test/v1", GOOD, models=models)],
            "gemini-api-key": [{"api-key": "${NONE:-}"}],
            "usage-statistics-enabled": True,
        }
    )
    done = shell.run_here("check")
    assert done.status == 0, done
    for line in (
        r"config.yaml: valid; would listen on .*, port 8317",
        r"  alpha/sk-...aaaa +https://a.test/v1 +1 +1 +kimi \(its vendor/kimi\)",
        r"  client +upstream +at once per worker +weight +models",
        r"  gemini: off, .*NONE.*",
        r"  team +cal...dddd +none +kimi",
        r"  queue-timeout +7 s",
        r"  .*usage-statistics-enabled.*",
    ):
        assert re.search(f"^{line}$", done.out, re.MULTILINE), (line, done.out)


REPORT = """\
config.yaml: valid; would listen on all interfaces, port any free one

clients (2)
  client            upstream           at once per worker  weight  models
  alpha/sk-...aaaa  https://a.test/v1                  12     100  kimi (its vendor/kimi), other
  demo              in-process                   no limit       1  demo
  gemini: off, no key in NONE

callers (2)
  caller     key         limits, per worker                                      models
  team       cal...dddd  max-concurrency 7, rpm 60, requests-per-day 500 in all  kimi
  (unnamed)  cal...eeee  none                                                    all

limits
  shutdown-delay          0 s
  request-retry           3 retries
  max-retry-interval      6 s
  max-cooldown            1801 s
  request-timeout         601 s
  connect-timeout         2.5 s
  first-byte-timeout      601 s
  idle-timeout            301 s
  queue-timeout           31 s
  max-requests-in-flight  1024 per worker
  max-body-size           1048575 bytes
  max-answer-size         1 MiB
  max-event-size          1.5 MiB
  request-log-max-bytes   1024 MiB
  request-log-days        7 days
  usage-days              400 days

warnings
  of CLIProxyAPI's settings these are ignored: usage-statistics-enabled
"""


def test_whole_report_of_check(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Numbers stand at the right of their columns, all else at the left."""
    models = [{"name": "vendor/kimi", "alias": "kimi"}, {"name": "other"}]
    shell.write(
        {
            "host": "",
            "port": 0,
            "api-keys": [
                {
                    "name": "team",
                    "key": CALLER,
                    "models": ["kimi"],
                    "max-concurrency": 7,
                    "rpm": 60,
                    "requests-per-day": 500,
                },
                "caller-0123456789-eeee",
            ],
            "request-timeout": 601,
            "connect-timeout": 2.5,
            "idle-timeout": 301,
            "queue-timeout": 31,
            "max-retry-interval": 6,
            "max-cooldown": 1801,
            "max-body-size": 2**20 - 1,
            "max-answer-size": 2**20,
            "max-event-size": 3 * 2**19,
            "openai-compatibility": [
                {
                    **provider("alpha", "https://a.test/v1", GOOD, models=models),
                    "max-concurrency": 12,
                    "weight": 100,
                }
            ],
            "demo": [{"name": "demo", "max-concurrency": 0}],
            "gemini-api-key": [{"api-key": "${NONE:-}"}],
            "usage-statistics-enabled": True,
        }
    )
    monkeypatch.chdir(shell.path)
    assert main(["check"]) == 0
    assert capsys.readouterr().out == REPORT


@pytest.mark.parametrize(
    ("access", "said"),
    [
        ({}, "open, to this machine only"),
        (
            {"allow-unauthenticated": True},
            "open to everybody who can connect (allow-unauthenticated)",
        ),
    ],
)
def test_check_tells_who_may_call(
    shell: Shell, capsys: pytest.CaptureFixture[str], access: dict[str, bool], said: str
) -> None:
    """Where there are no keys; nor clients, which is no error yet."""
    shell.write({"port": 0, **access})
    assert main(["check", str(shell.path / "config.yaml")]) == 0
    out = capsys.readouterr().out
    assert "clients (0)\n  none: nothing can be served\n" in out
    assert f"callers (no keys)\n  {said}\n" in out


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    """The head's too; nothing is padded at the end of a line."""
    made = table(("a", "bbbb", "c"), [("xyz", "1", ""), ("x", "12345", "z")], right=(1,))
    assert made.splitlines() == ["a     bbbb  c", "xyz      1", "x    12345  z"]


@pytest.mark.parametrize(
    ("items", "shown"),
    [
        ("", ""),
        ("a", "a"),
        ("abcdefg", "a, b, c, d, e, f, g"),
        ("abcdefgh", "a, b, c, d, e, f and 2 more"),
    ],
)
def test_names_in_a_cell(items: str, shown: str) -> None:
    """Many are counted; one alone is not, as its name is no longer than that."""
    assert names(items) == shown


def test_text_of_others_obeys_nobody() -> None:
    """One line, without what a terminal would take for an order."""
    assert printable(" a\x1b[31m\nb\t") == "a [31m b"
    assert [count(number, "worker") for number in (0, 1, 2)] == [
        "0 workers",
        "1 worker",
        "2 workers",
    ]


def test_check_lists_every_setting_that_has_a_unit(shell: Shell) -> None:
    """With its value, in the order of the schema; 0 is what it stands for, MiB are told as such."""
    shell.write({"request-timeout": 90.5, "max-event-size": 1000, "max-body-size": 3 << 19})
    limits = shell.run_here("check").out.partition("\nlimits\n")[2].partition("\n\n")[0]
    listed = dict(re.split("  +", line.strip()) for line in limits.splitlines())
    declared = {
        field.encode_name: (field.default, unit)
        for field in fields_of(Settings)
        if (unit := unwrap(field.type)[1].get("unit"))
    }
    assert list(listed) == list(declared)
    given = {
        "request-timeout": "90.5 s",
        "first-byte-timeout": "90.5 s",
        "max-event-size": "1000 bytes",
        "max-body-size": "1.5 MiB",
        "max-answer-size": "256 MiB",
        "request-log-max-bytes": "1024 MiB",
    }
    expected = {key: f"{default} {unit}" for key, (default, unit) in declared.items()}
    assert listed == expected | given


def test_check_prints_every_problem_on_stderr_and_exits_2(shell: Shell) -> None:
    """All errors at once, each with file and path; stdout stays empty."""
    shell.write({"port": "no", "openai-compatibility": [provider("a", "nowhere", GOOD)]})
    status, out, err = shell.run_here("check", "config.yaml")
    assert (status, out) == (2, "")
    assert [line.split(": ")[1] for line in err.splitlines()] == [
        "port",
        "openai-compatibility[0].base-url",
    ]


@pytest.mark.long
def test_check_refuses_what_serve_would_refuse(shell: Shell) -> None:
    """An open proxy on all interfaces is a problem of the configuration."""
    shell.write({"host": "0.0.0.0", "demo": [{"name": "demo"}]})
    for command in ("check", "serve"):
        done = shell.run(command)
        assert done.status == 2, done
        assert done.err.startswith("config.yaml: host: without api-keys"), done


@pytest.mark.long
@pytest.mark.parametrize(("host", "shown"), [("0.0.0.0", "0.0.0.0"), ("[::]", "::")])
def test_serve_checks_the_host_that_it_was_told(shell: Shell, host: str, shown: str) -> None:
    """An option is no way around the rule for open proxies."""
    done = shell.run("serve", "--host", host)
    assert done.status == 2, done
    assert f"whoever reaches {shown} could spend" in done.err


def test_check_names_a_file_that_is_not_there(shell: Shell) -> None:
    """One line, status 2."""
    status, _, err = shell.run_here("check", "missing.yaml")
    assert (status, err) == (2, "missing.yaml: cannot be read: No such file or directory\n")


# without a file, and init


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory to work in, and nothing in the environment that names a file."""
    monkeypatch.chdir(tmp_path)
    for name in ("PROXY_CONFIG", "PORT", "OPENAI_API_KEY", "GEMINI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.usefixtures("empty")
def test_without_a_file_the_built_in_default_is_checked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And named, with accounts whose keys are set; a file that is named has to be there."""
    monkeypatch.setenv("OPENAI_API_KEY", GOOD)
    assert main(["check"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("built-in default: valid; would listen on 127.0.0.1, port 8317\n")
    assert "  openai/sk-...aaaa " in out
    monkeypatch.setenv("PORT", "high")
    assert main(["check"]) == 2
    assert capsys.readouterr().err.startswith("built-in default: port: expected a whole number")
    assert main(["check", "config.yaml"]) == 2
    monkeypatch.setenv("PROXY_CONFIG", "other.yaml")
    monkeypatch.setattr("proxy.cli.running.running_ports", list)  # whatever else runs here
    assert main(["status"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "config.yaml: cannot be read: No such file or directory",
        "other.yaml: cannot be read: No such file or directory "
        "($PROXY_CONFIG may name another file, and `poolproxy init` writes one)",
    ]


def test_init_writes_the_built_in_default(empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For its owner alone, and once; what it wrote is served as before."""
    assert main(["check"]) == 0
    built_in = capsys.readouterr().out
    assert main(["init"]) == 0
    assert "`poolproxy check`" in capsys.readouterr().out
    written = empty / "config.yaml"
    assert written.stat().st_mode & 0o777 == 0o600
    assert main(["check"]) == 0
    assert capsys.readouterr().out == built_in.replace("built-in default", "config.yaml")
    written.write_text("mine")
    assert main(["init"]) == 1
    err = capsys.readouterr().err
    assert err == "poolproxy: config.yaml is there already, and stays as it is\n"
    assert written.read_text() == "mine"


@pytest.mark.usefixtures("empty")
def test_init_writes_where_it_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By an argument, else by the environment, as other commands read."""
    assert main(["init", "a.yaml"]) == 0
    assert "a.yaml: written" in (out := capsys.readouterr().out)
    assert "`poolproxy check a.yaml`" in out
    monkeypatch.setenv("PROXY_CONFIG", "b.yaml")
    assert main(["init"]) == 0
    assert sorted(os.listdir()) == ["a.yaml", "b.yaml"]
    assert main(["init", "no/c.yaml"]) == 1
    assert capsys.readouterr().err.startswith("poolproxy: no/c.yaml cannot be written: ")


def test_built_in_default_is_the_file_of_a_checkout() -> None:
    """There is one example of a configuration, at two places."""
    shipped = (ROOT / "config.yaml").read_bytes()
    assert (ROOT / "proxy" / "config" / "default.yaml").read_bytes() == shipped


def test_summary_of_the_built_in_default(empty: Path) -> None:
    """The second line says what it is, and how to have it as a file."""
    said = summary(load_config(or_built_in=True), ["http://x:1"], workers=1, threads=8)
    second = "  built-in default, as there is no config.yaml: `poolproxy init` writes it"
    assert said.splitlines()[1] == second
    (empty / "config.yaml").write_text("demo: [{}]")
    said = summary(load_config(or_built_in=True), ["http://x:1"], workers=1, threads=8)
    assert second not in said


def test_probe_tells_latency_and_models(shell: Shell, upstream: Upstream) -> None:
    """A client that answers is ok, also if its list lacks a configured model, which is said."""
    models = [{"name": MODEL}, {"name": "unheard-of"}]
    shell.write(
        {
            "openai-compatibility": [
                provider("alpha", upstream.url, GOOD),
                provider("beta", upstream.url, BAD, models=models),
            ],
            "demo": [{"name": "demo"}],
        }
    )
    status, out, _ = shell.run_here("check", "--probe")
    assert status == 0, out
    assert re.search(r"^  alpha/sk-...aaaa +\d+ ms  ok, lists 1 model$", out, re.MULTILINE)
    assert re.search(r"^  beta/.* ok, lists 1 model, but not unheard-of$", out, re.MULTILINE)
    assert re.search(r"^  demo +\d+ ms  ok, lists 1 model$", out, re.MULTILINE)
    assert {one.key for one in upstream.received()} == {GOOD, BAD}


def test_clients_are_probed_side_by_side(shell: Shell, upstream: Upstream) -> None:
    """A silent one holds up none of the others: each list waits here until all are asked for."""
    all_asked = threading.Barrier(3)
    listing = upstream.pages["/v1/models"]
    assert callable(listing)

    def listed_together(request: Received) -> Reply:
        all_asked.wait(PATIENCE_S)
        return listing(request)

    upstream.pages["/v1/models"] = listed_together
    shell.write({"openai-compatibility": [provider("alpha", upstream.url, GOOD, BAD, COLD)]})
    status, out, _ = shell.run_here("check", "--probe")
    assert status == 0, out


def test_probe_says_in_plain_words_why_an_upstream_failed(shell: Shell, upstream: Upstream) -> None:
    """Status 1; the others are asked all the same; a key said back by the upstream is masked."""
    refusal = json_reply(
        {"error": {"message": f"Incorrect: {BAD} tok-{COLD}\x1b[31m", "code": "invalid"}}, 401
    )
    listing = upstream.pages["/v1/models"]
    assert callable(listing)
    upstream.pages["/v1/models"] = lambda one: refusal if one.key == BAD else listing(one)
    shell.write(
        {
            "openai-compatibility": [
                {
                    **provider("alpha", upstream.url, BAD, GOOD),
                    "headers": {"X-Gate": f"Bearer tok-{COLD}"},
                },
                provider("closed", f"http://127.0.0.1:{free_port()}/v1", COLD),
            ]
        }
    )
    status, out, _ = shell.run_here("check", "--probe")
    assert status == 1, out
    assert re.search(
        r"^  alpha/sk-...bbbb .*failed: Incorrect: sk-...bbbb tok...cccc *\[31m$", out, re.MULTILINE
    )
    assert "\x1b" not in out
    assert re.search(r"^  alpha/sk-...aaaa .*ok, lists 1 model$", out, re.MULTILINE)
    assert re.search(r"^  closed/.*failed: cannot connect to .*Connection refused", out, re.M)


def test_schema_is_a_json_schema(shell: Shell) -> None:
    """For editors: needs no configuration at all."""
    (shell.path / "config.yaml").unlink()
    status, out, _ = shell.run_here("check", "--schema")
    schema = json.loads(out)
    assert status == 0
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert "openai-compatibility" in json.dumps(schema)


# What the server says at its start


def test_summary_of_what_is_served() -> None:
    """Providers with their clients, models and permits; what each worker has of its own."""
    config = load_config(
        {
            "openai-compatibility": [
                {
                    **provider("a", "http://a.test", GOOD, BAD, models=["m", "n"]),
                    "max-concurrency": 4,
                },
                provider("b", "http://b.test", COLD),
            ],
            "gemini-api-key": [{"api-key": "${NONE:-}"}],
            "demo": [{}],
            "max-requests-in-flight": 7,
            "usage-statistics-enabled": True,
        },
        environ={},
    )
    one = summary(config, ["http://x:1"], workers=1, threads=8).splitlines()
    assert one == [
        f"poolproxy on http://x:1 {OPEN}",
        "  a: 2 clients, 2 models, 8 at once",
        "  b: 1 client, the upstream's models, 1 at once",
        "  demo: 1 client, 1 model, unlimited at once",
        "  gemini: off, no key in NONE",
        "  1 worker of 8 threads: 7 requests in flight at most, each",
        "  warning: of CLIProxyAPI's settings these are ignored: usage-statistics-enabled",
    ]
    two = summary(config, ["http://x:1", "unix:y"], workers=2, threads=8).splitlines()
    assert two[0] == f"poolproxy on http://x:1, unix:y {OPEN}"
    assert two[1] == "  a: 2 clients, 2 models, 16 (8 per worker) at once"
    assert two[3] == "  demo: 1 client, 1 model, unlimited at once"
    assert two[-2] == "  2 workers of 8 threads: 7 requests in flight at most, each"


def test_summary_of_callers_limits() -> None:
    """Those of all callers who have the same; each worker counts for itself."""
    limited = [{"name": f"user-{n}", "key": f"{CALLER}-{n}", "rpm": 60} for n in range(9)]
    other = {"key": f"{CALLER}-other", "tpm": 5000, "max-concurrency": 2}
    daily = {"name": "daily", "key": f"{CALLER}-daily", "rpm": 60, "tokens-per-day": 9000}
    config = load_config({"api-keys": [CALLER, *limited, other, daily], "demo": [{}]}, environ={})
    lines = summary(config, ["x"], workers=1, threads=1).splitlines()
    users = ", ".join(f"user-{n}" for n in range(6))
    assert lines[2:5] == [
        f"  limits of {users} and 3 more: rpm 60",
        "  limits of cal...ther: max-concurrency 2, tpm 5000",
        "  limits of daily: rpm 60, tokens-per-day 9000 in all",
    ]
    assert len(lines) == 6
    lines = summary(config, ["x"], workers=4, threads=1).splitlines()
    assert lines[2:5] == [
        f"  limits of {users} and 3 more: rpm 240 (60 per worker)",
        "  limits of cal...ther: max-concurrency 8 (2 per worker), tpm 20000 (5000 per worker)",
        "  limits of daily: rpm 240 (60 per worker), tokens-per-day 9000 in all",
    ]


@pytest.mark.parametrize(
    ("access", "said"),
    [
        ({"api-keys": [CALLER]}, "1 callers' keys"),
        ({"allow-unauthenticated": True}, "open to everybody (allow-unauthenticated)"),
        ({"api-keys": [CALLER], "allow-unauthenticated": True}, "1 callers' keys"),
    ],
)
def test_summary_of_who_may_call(access: dict[str, object], said: str) -> None:
    """In its first line."""
    config = load_config(access, environ={})
    first, *_ = summary(config, ["x"], workers=1, threads=1).splitlines()
    assert first == f"poolproxy on x ({said})"


# The command line itself


@pytest.mark.parametrize(
    ("arguments", "taken"),
    [
        (["serve", "--port", "0"], {"port": 0}),
        (["serve", "--port", "65535"], {"port": 65_535}),
        (["status", "--port", "65536"], None),
        (["enable", "x", "--port", "-1"], None),
        (["serve", "--port", "1x"], None),
        (["serve", "--port", "\u0661"], None),
        (["serve", "--port", ""], None),
        (["serve", "--workers", "1"], {"workers": 1}),
        (["serve", "--workers", "1024"], {"workers": 1024}),
        (["serve", "--workers", "0"], None),
        (["serve", "--workers", "1025"], None),
        (["serve", "--host", "[::1]"], {"host": "::1"}),
        (["serve", "--host", "[::1"], {"host": "[::1"}),
        (["serve", "--host", "::1]"], {"host": "::1]"}),
        (["serve", "a.yaml", "--debug"], {"file": "a.yaml", "debug": True}),
        (["serve"], {"file": None, "host": None, "port": None, "workers": None, "debug": False}),
        (["check", "--probe", "--schema"], None),
        (["check", "--schema"], {"schema": True, "probe": False}),
        (["status", "--json", "m", "a.yaml"], {"json": True, "model": "m", "file": "a.yaml"}),
        (["reset", "x"], {"client": "x", "model": None, "file": None}),
        (["reset", "x", "m", "a.yaml"], {"client": "x", "model": "m", "file": "a.yaml"}),
        (["disable", "x", "a.yaml"], {"client": "x", "file": "a.yaml"}),
    ],
)
def test_options_and_their_ranges(
    capsys: pytest.CaptureFixture[str], arguments: list[str], taken: dict[str, object] | None
) -> None:
    """The ends are within; digits are those of ASCII."""
    if taken is None:
        with pytest.raises(SystemExit):
            parser().parse_args(arguments)
        assert "error: " in capsys.readouterr().err
    else:
        assert vars(parser().parse_args(arguments)).items() >= taken.items()


@pytest.mark.parametrize(
    ("failure", "status", "said"),
    [
        (KeyboardInterrupt(), 130, ""),
        (Failure("why"), 1, "poolproxy: why\n"),
        (Failure("why", Exit.NOT_RUNNING), 4, "poolproxy: why\n"),
        (ConfigError(["one", "two"]), 2, "one\ntwo\n"),
    ],
    ids=repr,
)
def test_statuses_of_what_can_be_foreseen(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    failure: BaseException,
    status: int,
    said: str,
) -> None:
    """In lines, and never by a traceback."""

    def fail(_: object) -> int:
        raise failure

    monkeypatch.setattr("proxy.cli.arguments.check", fail)
    assert main(["check"]) == status
    assert capsys.readouterr() == ("", said)


def test_no_command_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    """The same as --help."""
    assert main([]) == 0
    bare = capsys.readouterr()
    with pytest.raises(SystemExit) as asked:
        main(["--help"])
    assert asked.value.code == 0
    assert capsys.readouterr() == bare
    assert bare.err == ""
    assert "  serve " in bare.out


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """With the same word for what stands in their place, above and in the list."""
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert "usage: poolproxy [-h] [--version] COMMAND ..." in out
    listed = re.search(r"^commands:\n  COMMAND\n((?:    .+\n)+)", out, re.MULTILINE)
    assert listed is not None, out
    names = re.findall(r"^    (\w+)", listed[1], re.MULTILINE)
    assert " ".join(names) == "serve check init health status reload disable enable reset usage"


@pytest.mark.parametrize(
    ("command", "usage"),
    [
        ("serve", "[-h] [--host HOST] [--port PORT] [--workers N] [--debug] [FILE]"),
        ("check", "[-h] [--probe | --schema] [FILE]"),
        ("init", "[-h] [FILE]"),
        ("health", "[-h] [--ready] [--port PORT] [FILE]"),
        ("status", "[-h] [--json] [--port PORT] [MODEL] [FILE]"),
        ("reload", "[-h] [--port PORT] [FILE]"),
        ("disable", "[-h] [--port PORT] CLIENT [FILE]"),
        ("enable", "[-h] [--port PORT] CLIENT [FILE]"),
    ],
)
def test_usage_of_each_command(
    capsys: pytest.CaptureFixture[str], command: str, usage: str
) -> None:
    """What it takes, by name."""
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown, _, _ = capsys.readouterr().out.partition("\n\n")
    assert " ".join(shown.split()) == f"usage: poolproxy {command} {usage}"


@pytest.mark.parametrize("arguments", [("server",), ("serve", "--port", "70000"), ("disable",)])
def test_wrong_command_line_is_explained(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    """The usage and the error on stderr, status 2."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert "usage: poolproxy" in err


@pytest.mark.parametrize(
    "arguments",
    [(), ("serve",), ("check",), ("init",), ("status",), ("disable",), ("enable",), ("reset",)],
)
def test_help_tells_the_exit_statuses(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    """Each command's help is complete."""
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert re.findall(r"^  (\d)    ", out, re.MULTILINE) == ["0", "1", "2", "3", "4"]


def test_terminal_that_cannot_show_a_character_gets_an_escape(shell: Shell) -> None:
    """A letter that is not in its alphabet is no reason to fail."""
    shell.write({"demo": [{"models": [{"name": "Zoë"}]}]})
    status, out, _ = shell.run("check", PYTHONIOENCODING="ascii")
    assert status == 0
    assert r"Zo\xeb" in out


def test_reader_that_has_seen_enough_is_no_error_to_print(shell: Shell) -> None:
    """`poolproxy check | head -0`: nothing on stderr."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "wb") as closed:
        done = subprocess.run(
            [*COMMAND, "check", "--schema"],
            cwd=shell.path,
            env=shell.environment(),
            stdout=closed,
            stderr=subprocess.PIPE,
            timeout=START_S,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, b"")


# serve


@pytest.mark.long
def test_serve_and_gunicorn_have_the_same_settings(shell: Shell) -> None:
    """One place of truth: what differs is how the application is named, and nothing else."""
    shell.write({"port": 8399, "demo": [{"name": "demo"}], "max-requests-in-flight": 40})
    script = (
        "import sys; from proxy.server import settings; from proxy.config import load_config\n"
        "from gunicorn.app.wsgiapp import WSGIApplication\n"
        "settings._serve(lambda seen: load_config(seen=seen))\n"
        "ours = settings._Server({'workers': 3}).cfg\n"
        f"sys.argv = ['gunicorn', '-w', '3', '-c', {str(ROOT / 'gunicorn.conf.py')!r}]\n"
        "theirs = WSGIApplication().cfg\n"
        "for name in ours.settings:\n"
        "    a, b = (str(getattr(c.settings[name].get(), '__func__', c.settings[name].get()))\n"
        "            for c in (ours, theirs))\n"
        "    if a != b: print(name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=shell.path,
        env=shell.environment(),
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )
    assert (done.stdout.split(), done.stderr) == (["config"], "")


@pytest.mark.long
def test_serve_says_when_the_port_is_taken(shell: Shell) -> None:
    """One line, status 3."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        status, _, err = shell.run("serve", "--port", port)
    assert status == 3
    assert err.startswith(f"poolproxy: port {port} is in use"), err


def test_unix_socket_of_one_who_is_busy_is_in_use() -> None:
    """No room for another connection: it is not waited for, and the socket stays."""
    with tempfile.TemporaryDirectory(prefix="pp-") as directory, contextlib.ExitStack() as stack:
        path = f"{directory}/s"
        busy = stack.enter_context(socket.socket(socket.AF_UNIX))
        busy.bind(path)
        busy.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                other = stack.enter_context(socket.socket(socket.AF_UNIX))
                other.setblocking(False)
                other.connect(path)
        assert (
            _why_not_unix(path)
            == f"unix:{path} is in use: bind another, or stop what listens there"
        )


@pytest.mark.long
def test_serve_takes_further_settings_of_gunicorn_from_the_environment(shell: Shell) -> None:
    """`$GUNICORN_CMD_ARGS` wins over the configuration, as with gunicorn itself."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = shell.run("serve", GUNICORN_CMD_ARGS=f"--bind 127.0.0.1:{port}")
    assert done.status == 3
    assert f"port {port} is in use" in done.err, done


@pytest.mark.long
def test_serve_ends_at_sigterm_and_leaves_nothing(shell: Shell) -> None:
    """Away from the checkout, with the file named: exit status 0, no socket left, status is 4."""
    (shell.path / "config.yaml").rename(shell.path / "mine.yaml")
    running = Instance(shell, "mine.yaml")
    assert running.chat("demo")[0] == 200
    assert running.stop() == 0
    assert shell.sockets() == []
    status, _, err = running.command("status")
    assert (status, err.count("\n")) == (4, 1)
    assert f"no instance that this user may ask runs on port {running.port}" in err


@pytest.mark.long
def test_reload_with_a_broken_file_changes_nothing(shell: Shell) -> None:
    """SIGHUP: the problems are logged, callers are served on; a good file then takes effect."""
    with serving(shell, workers=1) as running:
        shell.write("port: [")
        before = set(running.workers())
        running.process.send_signal(signal.SIGHUP)
        said = "the configuration stays as it was: config.yaml"
        wait_for(lambda: said in running.log(), running.log)
        assert running.chat("demo")[0] == 200
        shell.write({"port": 0, "demo": [{"name": "demo", "models": [{"name": "other"}]}]})
        running.process.send_signal(signal.SIGHUP)
        wait_for(lambda: running.chat("other")[0] == 200, running.log)
        assert set(running.workers()) == before
