"""Does a test fall when the code is broken where it matters? `python -m tests.mutants [NAME ...]`.

Each mutant is one change of one place in `proxy`, made in a copy of the tree; the tests named with
it must pass without it and fail with it. Prints a table, and exits with 1 if a mutant survives.
That each place is still there is checked by `tests/test_mutants.py`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
COPIED = (
    *("proxy", "tests", "config.yaml", "gunicorn.conf.py", "setup.cfg", "pyproject.toml"),
    *("poolproxy.py", "examples"),
)
JOBS = 2
LIMIT_S = 150  # a mutant that hangs its tests is caught by that

# pytest's own: docs.pytest.org/en/stable/reference/exit-codes.html
PASSED, FAILED = 0, 1


class Mutant(NamedTuple):
    """`old` stands once in `path`; `tests` are arguments for pytest, below `tests/`."""

    name: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...]


def _m(name: str, path: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(name, f"proxy/{path}", old, new, tests)


MUTANTS = [
    # The status page
    _m("a foreign page gives orders", "api/page.py",
       "    check_own_page(exchange.environ)\n", "",
       "api/test_page.py::test_order_from_elsewhere_is_refused"),
    _m("an order needs no token", "api/page.py",
       "if not hmac.compare_digest(", "if False and not hmac.compare_digest(",
       "api/test_page.py::test_order_without_the_pages_token_is_refused"),
    _m("names are markup", "api/page.py",
       "autoescape=True", "autoescape=False", "api/test_page.py::test_markup_is_only_text"),
    _m("an hour grows", "usage/recent.py",
       "maxlen=MINUTES", "maxlen=None",
       "usage/test_recent.py::test_an_hour_is_remembered_and_no_more"),
    # Anthropic's Messages API
    _m("a vendor's signature goes to another", "wire/messages/request.py",
       "found is None or found.kind != self._kind or self._plain", "found is None or self._plain",
       "wire/messages/test_request.py::test_thoughts_go_back_to_their_kind_alone"),
    _m("containers reach Claude", "wire/claude/native.py",
       "not every and _MARK not in body", "not every",
       "wire/messages/test_native.py::test_containers_are_left_out"),
    _m("an early error ends a native stream", "wire/native.py",
       "self._held: list[bytes] | None = []", "self._held: list[bytes] | None = None",
       "wire/claude/test_native.py::test_nothing_passes_before_the_answer_begins"),
    _m("half a native stream looks whole", "wire/claude/native.py",
       "if not self._has_stopped:", "if False:",
       "wire/claude/test_native.py::test_what_is_cut_off_is_not_whole"),
    _m("calls interleave", "wire/chat/deltas.py",
       "if not self._turn.is_whole:", "if False:",
       "wire/messages/test_stream.py::test_parallel_calls_are_put_in_order"),
    # Metrics, and who may see them
    _m("a dead worker's counts are lost", "usage/metrics.py",
       "        table.add(new)", "        table = Table(new, {})",
       "usage/test_metrics.py::test_counts_of_a_dead_worker_stay"),
    _m("a worker that dies while it writes spoils all counts", "usage/metrics.py",
       "else begin + size", "else begin",
       "usage/test_metrics.py::test_counts_of_a_dead_worker_stay"),
    _m("what is kept is kept again", "usage/metrics.py",
       "                self._table |= {key: [0] * len(row) for key, row in new.items()}\n", "",
       "usage/test_metrics.py::test_any_worker_tells_what_all_have_kept"),
    _m("workers write at the same time", "usage/metrics.py",
       "fcntl.lockf(fd, fcntl.LOCK_EX)", "pass",
       "usage/test_metrics.py::test_workers_take_turns"),
    _m("each worker chooses other values of a label", "usage/metrics.py",
       "(dict(table), table.seen)", "(dict(table), {})",
       "usage/test_metrics.py::test_values_stay_what_they_were_whoever_is_asked"),
    _m("strangers' models are values of a label", "usage/metrics.py",
       "else record.model and OTHER", "else record.model",
       "usage/test_metrics_counted.py::test_thousands_of_strangers_names_are_one"),
    _m("any key is an operator's", "api/auth.py",
       "if not caller.admin and (caller is not ANYONE or", "if (caller is ANYONE and",
       "api/test_access.py::test_operator_has_a_key_for_it"),
    _m("who comes by a proxy is on this machine", "api/auth.py",
       "not any(name.startswith(_PASSED_ON) for", "not any(not name for",
       "api/test_access.py::test_operator_of_an_open_gateway_is_on_this_machine"),
    # The pool
    _m("a permit never comes back", "pool/pool.py",
       "del lock.leases[lease.number]", "pass",
       "pool/test_pool.py::test_a_lease_holds_one_permit_until_its_end"),
    _m("one permit too many", "pool/client_lock.py",
       "in_use < self.permits", "in_use <= self.permits",
       "pool/test_pool.py::test_no_more_requests_than_permits"),
    _m("a disabled client is lent", "pool/client_lock.py", ") and not self.is_disabled", ")",
       "pool/test_pool.py::test_a_disabled_client_gets_no_more_requests"),
    _m("who was handed a client is not woken", "pool/pool.py",
       "        if ticket.bell is not None:\n            self._rung.append(ticket.bell)\n", "",
       "test_locks.py"),
    _m("a withdrawn request keeps its client", "pool/pool.py",
       "            if lease is not None:\n                self._take_back_locked",
       "            if False:\n                self._take_back_locked",
       "pool/test_pool_waits.py::test_a_withdrawn_request_passes_on_what_it_was_handed"),
    _m("a newcomer overtakes", "pool/pool.py", "first.rank < ticket.rank", "first.rank < 0",
       "pool/test_pool_waits.py"),
    _m("a lock is held while waking", "pool/pool.py",
       "        if self._rung:\n            self._ring()\n\n    def _report",
       "            if self._rung:\n                self._ring()\n\n    def _report",
       "test_locks.py"),
    _m("a lock is held while waiting", "pool/pool.py",
       "            try:\n                ticket.bell.wait(min(until, ticket.wakes_at), ",
       "            try:\n              with self._lock:\n"
       "                ticket.bell.wait(min(until, ticket.wakes_at), ",
       "test_locks.py"),
    _m("an undecided trial keeps its place", "pool/pool.py",
       "            lease.end_trials(now)\n            _settle(line)\n        del lock",
       "            pass\n        del lock",
       "pool/test_pool.py::test_an_undecided_trial_gives_its_place_to_the_next"),
    _m("a client that drains is forgotten", "pool/pool.py", "self._leaving |= {", "_ = {",
       "pool/test_adopt.py::"
       "test_a_client_that_comes_back_while_it_drains_has_its_permits_in_use"),
    _m("routes of before replace newer ones", "pool/pool.py",
       " or self._are_outdated_locked(routes)", "", "pool/test_adopt.py"),
    _m("weights are ignored", "pool/queue.py", "offer.turn += offer.step", "offer.turn += 1",
       "pool/test_queue.py::test_each_round_has_the_shares_of_the_weights"),
    # Health and verdicts
    _m("half-open is skipped", "pool/health.py",
       "return Standing(State.ON_TRIAL)", "return READY",
       "pool/test_health.py", "pool/test_pool.py::test_a_cooldown_ends_in_one_trial_that_decides"),
    _m("max-cooldown is ignored", "pool/health.py", "now + min(wait_s, most_s)", "now + wait_s",
       "pool/test_health.py"),
    _m("a shorter cooldown replaces a longer one", "pool/health.py", "max(self.until, now",
       "max(0.0, now", "pool/test_health.py"),
    _m("429 is counted", "request/verdict.py", "429: Verdict(Effect.COOL, counts=False)",
       "429: Verdict(Effect.COOL)", "request/test_verdict.py"),
    _m("401 is forwarded", "request/verdict.py",
       "and error.status == 401:", "and error.status == 499:",
       "request/test_verdict.py"),
    _m("one retry too few", "request/failures.py",
       "return self._counted <= self._config.request_retry",
       "return self._counted < self._config.request_retry",
       "request/test_attempts.py::test_failing_upstream_moves_on_and_counts"),
    _m("a redirect passes for a refusal", "request/failures.py", "if reply.status < 400:",
       "if reply.status < 300:", "request/test_attempts.py::test_redirect_is_not_followed"),
    # Leases, streams, ends
    _m("a retry keeps the client before it", "request/attempts.py",
       "            self._end_attempt()\n        raise self._failed().final()",
       "            self._lease = None\n        raise self._failed().final()",
       "test_seed_bugs.py", "-k", "bug_1_"),
    _m("a stream is retried after its first event", "request/stream.py",
       "            data = self._failed(known)\n",
       "            self._failed(known)\n"
       "            self._is_over = False\n            self._relay = None\n"
       "            again = self._attempts\n"
       "            again._end_attempt()\n"
       "            again._pauses = again._run()\n"
       "            return next(self)\n",
       "test_seed_bugs.py", "-k", "bug_4_"),
    _m("[DONE] follows an error", "request/stream.py", "data = self._failed(known)",
       "data = self._failed(known) + self._writer.end()", "request/test_stream.py"),
    _m("another dialect's errors are OpenAI's", "api/blueprint.py",
       'exchange.dialect = endpoints.dialect_at(f"/{rest}")', "pass",
       "dialects/test_third_dialect.py", "-k", "own_shape"),
    _m("chat for another dialect passes for its own", "request/attempts.py",
       "chunks, is_native = ask.streamed(answer)",
       "(chunks, _), is_native = ask.streamed(answer), True", "e2e/test_completions.py"),
    _m("refused reasoning ends the request", "request/attempts.py",
       "return None if plain == request else plain", "return None",
       "dialects/test_third_dialect.py::test_refused_reasoning_is_left_out"),
    _m("a failed call has no end in its record", "gateway.py",
       "record.failed(known)", "pass",
       "test_gateway.py", "-k", "in_the_record"),
    _m("a closed stream releases nothing", "request/stream.py",
       "or self._end\n        self._held.close()", "or self._end",
       "request/test_stream.py::test_close_frees_once_in_every_state"),
    _m("a cut answer's usage passes for whole", "request/attempts.py",
       "self._attempt.usage = usage if is_over else replace(usage or Usage(), partial=True)",
       "self._attempt.usage = usage",
       "test_usage.py", "-k", "cut_stream"),
    _m("who did not ask sees the usage chunk", "wire/chat/stream.py",
       "if chunk.usage and self._hides_usage:", "if False:",
       "test_usage.py", "-k", "did_not_ask"),
    _m("tokens of all prompts are the last client's", "record/record.py",
       "found = reduce(Usage.plus, told)", "found = told[-1]",
       "test_usage.py", "-k", "client_that_counted"),
    _m("usage that cannot be written is lost", "usage/ledger.py",
       "_merge(self._rows, rows)\n                if asks", "pass\n                if asks",
       "usage/test_ledger.py", "-k", "cannot_be_written_waits"),
    _m("usage is written again and again", "usage/ledger.py",
       "rows, self._rows = self._rows, {}", "rows = dict(self._rows)",
       "usage/test_ledger.py", "-k", "add_up"),
    _m("a forked child writes its parent's usage", "usage/ledger.py",
       "    for ledger in tuple(_all):\n        ledger._begin()", "    pass",
       "usage/test_ledger.py", "-k", "forked_child"),
    _m("two instances write one ledger", "usage/ledger.py",
       'raise OSError("another instance keeps its own there") from None', "pass",
       "usage/test_ledger.py", "-k", "second_instance"),
    _m("a jump of the clock removes history", "usage/ledger.py",
       "SELECT min(day) FROM (SELECT DISTINCT day FROM usage ORDER BY day DESC LIMIT ?))",
       "SELECT date(max(day), -? || ' days') FROM usage)",
       "usage/test_ledger.py", "-k", "clock_that_jumps"),
    _m("requests that were refused count for a day's limit", "usage/ledger.py",
       "        if client:\n", "        if True:\n",
       "usage/test_ledger.py", "-k", "all_processes"),
    _m("a refused request is charged by the limit that did not refuse", "usage/limits.py",
       "if caller.rpm and all(one.left for one in levels.values()):", "if caller.rpm:",
       "usage/test_limits.py", "-k", "refused_requests"),
    _m("the hint is that of the limit that is sooner over", "usage/limits.py",
       "key = max(levels", "key = min(levels",
       "usage/test_limits.py", "-k", "longest_wait"),
    _m("who comes when it was told to is too early", "usage/limits.py",
       "_TOLERANCE_S = 1e-6", "_TOLERANCE_S = 0.0",
       "usage/test_limits.py", "-k", "hint_is_true"),
    _m("a day ends a second late", "usage/limits.py",
       "0.0 if left else rest_s, rest_s", "0.0 if left else rest_s + 1, rest_s",
       "usage/test_limits.py", "-k", "midnight"),
    _m("a stream is charged nothing at its end", "gateway.py",
       "            held.callback(self.limits.charge, caller, record)\n", "",
       "api/test_caller_limits.py", "-k", "at_their_end"),
    _m("a refused wish for usage is sent again and again", "clients/openai.py",
       "            self._takes_options = False", "            pass",
       "test_usage.py", "-k", "tried_once_more"),
    _m("a receiver that raises spoils the answer", "record/signals.py",
       "    except Exception:  # whatever", "    except LookupError if False else ():  # whatever",
       "test_signals.py", "-k", "raises"),
    _m("a lost stream's receivers hold up another request", "record/signals.py",
       "if record.is_lost:", "if False:",
       "test_signals.py", "-k", "comes_upon"),
    _m("a closed stream of Python's waits on", "calls.py",
       "            line.shutdown(socket.SHUT_RDWR)", "            line.detach()",
       "test_calls.py", "-k", "another_thread_may_close"),
    _m("a closed stream of Python's passes for whole", "calls.py",
       "        if self._is_closed:\n            raise _closed()\n        body",
       "        if self._is_closed:\n            raise StopIteration\n        body",
       "test_calls.py", "-k", "closed_early"),
    _m("a caller's name from Python has no limits", "calls.py",
       "return next(known, None) or Caller(self.caller)", "return Caller(self.caller)",
       "test_calls.py", "-k", "caller_of_the_configuration"),
    _m("a caller who left sees a clean end", "request/stream.py",
       "            raise ConnectionResetError(",
       "            raise StopIteration(",
       "request/test_stream.py::test_gone_caller_resets"),
    _m("a cut stream passes for whole", "wire/chat/stream.py",
       '        if not are_finished or len(self._finished) < self._choices_asked():\n'
       '            raise UpstreamTruncated("the upstream\'s stream was',
       '        if False:\n            raise UpstreamTruncated("the upstream\'s stream was',
       "request/test_stream.py::test_stream_cut_off_ends_in_an_error_event"),
    _m("a body that is cut off passes", "wire/http/answer.py",
       "        if not self.is_whole and not", "        if False and not",
       "wire/http/test_answer.py", "-k", "truncated"),
    _m("a second answer is content of the first", "wire/http/answer.py",
       'raise httptools.HttpParserError("another answer', 'print("another answer',
       "wire/http/test_answer.py", "-k", "second_answer"),
    _m("compression is undone in one go", "wire/http/content_coding.py",
       "inflate.decompress(data, most)", "inflate.decompress(data)",
       "wire/http/test_content_coding.py", "-k", "bounded"),
    _m("a connection that says rubbish is used again", "net/exchange.py",
       "self._inflater.has_more or self._inflater.excess", "self._inflater.has_more",
       "net/test_transport.py", "-k", "rubbish"),
    _m("a bomb is an answer", "wire/http/content_coding.py",
       "if self._given > max(UNSUSPICIOUS_BYTES, MAX_RATIO * self._taken):", "if False:",
       "wire/http/test_content_coding.py", "-k", "bomb"),
    _m("a failed attempt's answer is kept", "request/failures.py",
       "error.__traceback__ = error.__cause__ = error.__context__ = None", "pass",
       "request/test_attempts_answers.py", "-k", "let_go"),
    _m("a wait forgets the caller", "net/watch.py",
       "            poller.register(fd, select.POLLIN)\n        self.join(poller)\n",
       "            poller.register(fd, select.POLLIN)\n",
       "net/test_watch.py::test_gone_caller_ends_every_wait"),
    # Connections
    _m("want of descriptors is blamed on the upstream", "net/opening.py",
       "if want := shortage.recognised(error):", "if want := None:",
       "net/test_shortage.py", "-k", "want_is_known"),
    _m("want of memory is the client's fault", "request/verdict.py",
       "if isinstance(error, (OutOfResources, ShuttingDown)):", "if False:",
       "net/test_shortage.py", "-k", "want"),
    _m("a want in mid-stream ends it in silence", "request/stream.py",
       "except (ProxyError, *shortage.SIGNS) as fault:", "except ProxyError as fault:",
       "net/test_shortage.py", "-k", "mid_stream"),
    _m("a fresh connection is replaced too", "net/exchange.py",
       "or not self._is_reused or self._reader.started:", "or self._reader.started:",
       "net/test_transport.py::test_fresh_connection_is_not_replaced",
       "net/test_transport.py::test_replacement_is_not_replaced"),
    _m("an unfinished answer's connection is used again", "net/exchange.py",
       "if not self.is_whole or not reader.keep_alive", "if not reader.keep_alive",
       "net/test_transport.py::test_unfinished_answer_closes_the_connection"),
    _m("a closed transport leaves connections open", "net/transport.py",
       "        _close_all(idle)\n", "",
       "net/test_idle_connections.py::test_closed_transport_has_no_connection"),
    _m("a closed client leaves connections open", "clients/base.py",
       "            self.transport.close()", "            pass",
       "net/test_idle_connections.py::test_closed_client_has_no_connection"),
    _m("a closed gateway leaves connections open", "gateway.py",
       "            client.close()", "            pass",
       "net/test_idle_connections.py::test_closed_gateway_has_no_connection"),
    _m("each request takes the way by the main thread", "server/worker.py",
       "while keeps is True and self._goes_on(conn):", "while False:",
       "e2e/test_brisk_callers.py::test_thread_goes_on_with_the_connection"),
    # Model lists
    _m("who waits for a model's list waits for all", "net/helpers.py",
       "any(task.done() for task in tasks)", "all(task.done() for task in tasks)",
       "clients/test_registry.py::test_a_name_in_one_list_is_found_though_another_hangs"),
    _m("a model list may take all the time", "request/attempts.py",
       "find(ask.model, self.call.connection, waits.until(math.inf))",
       "find(ask.model, self.call.connection, waits.pause_at)",
       "e2e/test_model_lists.py::test_server_ends_though_a_list_hangs"),
    _m("an opening connection has no limit", "net/opening.py",
       "if now >= self._deadline:", "if now >= self._deadline and self._lookup:",
       "net/test_opening.py", "-k", "limit and dribbled"),
    _m("an opening connection forgets the caller", "net/opening.py",
       "        self._caller.join(self._poll)\n", "",
       "net/test_opening.py", "-k", "gone_caller and silent_tls"),
    _m("an address waits for the one before it", "net/opening.py",
       "yield next_at if left else math.inf", "yield math.inf",
       "net/test_opening.py", "-k", "head_start"),
    _m("TLS within TLS loses what is not taken at once", "net/nested_tls.py",
       "            except _WOULD_BLOCK as blocked:\n",
       "            except _WOULD_BLOCK as blocked:\n                self._unsent = b\"\"\n",
       "net/test_connections.py", "-k", "behind_tls"),
    _m("a stale name is waited for", "net/names.py",
       "now < answered_at + self._at_once_s", "False",
       "net/test_names.py", "-k", "stale"),
    _m("a hanging name takes all threads", "net/names.py",
       "if task is None and now", "if now", "net/test_names.py", "-k", "hanging"),
    # Limits and words
    _m("an event has no limit", "wire/sse.py", "if size > self._max_event_bytes:", "if False:",
       "wire/test_sse.py", "-k", "larger or bounded"),
    _m("an error body has no limit", "request/failures.py", "while len(body) < MAX_ERROR_BYTES:",
       "while True:", "request/test_attempts_once.py::test_huge_error_body_is_not_read_to_its_end"),
    _m("the body limit is off by one", "api/exchange.py", "        if len(body) > most:",
       "        if len(body) >= most:",
       "e2e/test_requests.py::test_body_of_just_the_allowed_size"),
    _m("lone surrogates are lost", "wire/lenient_json.py", 'data.replace(_SHIELD, b"\\\\u")',
       'data.replace(_SHIELD, b"")', "wire/chat/test_chat.py", "-k", "shield or passes"),
    _m("a second `model` is not seen", "wire/chat/request.py",
       "if not _are_all(text, fields):", "if False:", "wire/chat/test_chat.py"),
    _m("Retry-After is rounded down", "errors.py", '"retry-after": str(math.ceil(after_s))',
       '"retry-after": str(int(after_s))', "test_errors.py"),
    _m("fields are repeated without end", "wire/completions.py",
       "if size * len(prompts) > MAX_REPEATED_BYTES:", "if False:",
       "wire/completions/test_request.py", "-k", "repeated"),
    _m("a call that is no object passes", "wire/chat/reply.py",
       "if isinstance(call, dict)", "if True", "wire/test_odd_types.py", "-k", "openai"),
    _m("a day has a second more", "config/schema.py", "_DAY_S = 86_400", "_DAY_S = 86_401",
       "config/test_errors.py", "-k", "bounds"),
    _m("a setting stays at its default", "config/resolve.py",
       "for name in Settings.__struct_fields__",
       'for name in Settings.__struct_fields__ if name != "idle_timeout_s"',
       "config/test_keys.py", "-k", "setting"),
    _m("the JSON Schema has no units", "config/schema.py",
       """f"{unit} {kept['description']}\"""", "kept['description']",
       "config/test_keys.py", "-k", "declared"),
    _m("a setting is not listed", "config/config.py", 'if "unit" in rules:',
       'if "unit" in rules and field.name != "idle_timeout_s":',
       "cli/test_cli.py", "-k", "every_setting"),
    # Who may do what, and who learns what
    _m("any key lets in", "api/auth.py", "hmac.compare_digest(known, digest)",
       "hmac.compare_digest(known[:0], digest[:0])",
       "security/test_secrets.py::test_only_the_whole_key_lets_in"),
    _m("a digest lets in as the key does", "config/secrets.py",
       "return bytes.fromhex(hashed[1]) if",
       "return hashlib.sha256(hashed[0].encode()).digest() if",
       "e2e/test_access.py::test_no_other_key_does"),
    _m("keys are compared byte by byte", "api/auth.py", "hmac.compare_digest(known, digest)",
       "known == digest", "security/test_secrets.py::test_time_of_the_key_check_tells_nothing"),
    _m("no Origin check", "api/auth.py",
       '        _is_local(environ, "HTTP_ORIGIN")\n        or', "        True\n        or",
       "e2e/test_access.py::test_open_gateway_refuses_other_origins"),
    _m("another site's page spends a user's quota by a simple POST", "api/auth.py",
       '!= "application/json":', '== "":', "api/test_log_in.py", "-k", "foreign_page"),
    _m("who is not logged in gets in by a name of nothing", "api/auth.py",
       " or not caller.name:", ":", "api/test_log_in.py", "-k", "no_caller"),
    _m("an application's page of an error is the gateway's answer", "api/blueprint.py",
       "[Exception, *default_exceptions]", "[Exception]",
       "test_embedding.py", "-k", "keeps_what_it_says"),
    _m("callers who came once are counted for good", "gateway.py",
       "            if left:", "            if True:",
       "test_gateway.py", "-k", "forgotten"),
    _m("no Host check", "api/auth.py", "if not takes_any_host and", "if False and",
       "e2e/test_access.py::test_open_gateway_refuses_other_names"),
    _m("a key shows itself", "config/secrets.py", "    __repr__ = __str__",
       "    __repr__ = reveal", "security/test_secrets.py::test_no_object_of_ours_shows_a_key"),
    _m("a page of any port of the host gets in", "api/auth.py",
       "(\"\", name, port or default) == (*asked[:2], asked[2] or default)", "name == asked[1]",
       "api/test_access.py", "-k", "open_to_everybody"),
    _m("who waits for a client is not told that the process ends", "pool/pool.py",
       "            self._is_stopping = True\n", "",
       "pool/test_pool_waits.py", "-k", "process_ends"),
    _m("only the first wait ends with the process", "net/lost.py",
       "            self._bell.ring()  # for all others\n            raise ShuttingDown",
       "            raise ShuttingDown",
       "net/test_lost.py", "-k", "every_wait", "--timeout", "25"),
    _m("the log does not tell that a client is back", "pool/pool.py",
       "        if is_out != was_out:", "        if is_out:",
       "pool/test_pool.py", "-k", "log_tells"),
    _m("a secret that an upstream quotes is shown", "request/failures.py",
       "        self._config.secrets.mask_error(error)\n        report(lease",
       "        report(lease",
       "security/test_secrets.py", "-k", "quotes"),
    _m("credentials in headers are no secrets", "config/config.py",
       "found.update(in_header(name, value))", "pass",
       "security/test_secrets.py", "-k", "quotes"),
    _m("a secret is shown in two pieces", "config/secrets.py",
       "        cut = len(data) - self._begun(data)\n", "        cut = len(data)\n",
       "config/test_secrets.py::test_masking_of_a_stream_is_that_of_the_whole"),
    _m("a full disk is left with empty files", "record/transcript.py", "os.unlink(path)", "pass",
       "record/test_transcript.py::test_a_full_disk_leaves_nothing_and_is_gone_on_with"),
    _m("a browser may take an answer for a page", "api/exchange.py",
       '("X-Content-Type-Options", "nosniff"),', "",
       "security/test_pages.py", "-k", "every_answer"),
    _m("a compressed request has no limit", "wire/http/content_coding.py",
       "if left < 0:", "if False:",
       "wire/http/test_content_coding.py"),
    _m("the example's keys are keys", "config/secrets.py",
       "    return _PLACEHOLDER.fullmatch(key.reveal()) is not None", "    return False",
       "config/test_cliproxyapi.py", "-k", "placeholders"),
    _m("cookies come back", "wire/http/headers.py", 'name.startswith("openai-")',
       'name.startswith(("openai-", "set-cookie"))', "wire/http/test_headers.py"),
    _m("a header changes the path", "server/settings.py", '"forwarder_headers": ""',
       '"forwarder_headers": "SCRIPT_NAME"', "security/test_smuggling.py", "-k", "path"),
    # The server
    _m("the limit on connections ends the worker", "server/worker.py",
       "if not enabled and not self.alive:", "if not enabled:",
       "e2e/test_listeners.py::test_callers_beyond_the_limit_on_connections_wait"),
    _m("the worker is replaced after each request", "server/worker.py",
       "        else:\n            self.nr_conns -= 1",
       "        else:\n            raise RuntimeError",
       "e2e/test_stop.py"),
    _m("a head that trickles has a thread", "server/worker.py",
       "if self.has_heads:", "if False:",
       "hostile/test_receiving.py::test_head_that_does_not_come_has_no_thread"),
    _m("want of threads ends the worker", "server/worker.py",
       "        except RuntimeError as error:\n            self._is_short",
       "        except ZeroDivisionError as error:\n            self._is_short",
       "hostile/test_receiving.py::test_callers_for_whom_no_thread_can_be_had_wait"),
    _m("a Unix socket in use is taken over", "server/addresses.py",
       "why = None if isinstance(address, int) else _why_not_unix(address)", "why = None",
       "e2e/test_startup.py::test_unix_socket_in_use_is_one_line_and_status_3"),
    _m("an upgrade forgets what was disabled", "server/hooks.py",
       "hand_over(server.cfg.env_orig)", "pass",
       "e2e/test_startup.py::test_unix_socket_left_from_a_crash_is_replaced"),
    _m("a log that nobody reads stops requests", "server/logs.py",
       "if stat.S_ISFIFO(mode) or os.isatty(self._fd):", "if False:",
       "e2e/test_startup.py::test_requests_go_on_though_nobody_reads_the_log"),
    _m("a slow reader has one time for all", "net/timed_socket.py",
       "            else:\n                until = time.monotonic() + timeout_s\n", "",
       "hostile/test_receiving.py", "-k", "slowly"),
    _m("a slow reader over TLS has one time for all", "net/timed_socket.py",
       "sock.__class__ = LimitedTLSSocket", "pass",
       "hostile/test_receiving.py", "-k", "slowly"),
    # Gemini's requests and answers
    _m("results of equal ids are one", "wire/history.py",
       "calls.pop(0) if calls[1:] else calls[0]", "calls[0]",
       "wire/gemini/test_turns.py", "-k", "equal_ids"),
    _m("an unanswered call is left so", "wire/gemini/turns.py",
       "        for call in calls:", "        for call in [c for c in calls if c.result]:",
       "wire/gemini/test_turns.py", "-k", "without_a_result"),
    _m("steps of the model run together", "wire/history.py",
       "turn.closed = True", "pass", "wire/gemini/test_turns.py"),
    _m("a history may begin with the model", "wire/history.py",
       "if behind or number == 0:", "if behind:", "wire/gemini/test_turns.py", "-k", "begins"),
    _m("a call has no signature", "wire/gemini/turns.py",
       'part.setdefault("thoughtSignature", calls.NO_SIGNATURE)', "pass",
       "wire/gemini/test_turns.py", "-k", "signature"),
    _m("arguments that were cut off go on so", "wire/chat/shapes.py",
       'msgspec.json.encode({"arguments": raw.decode()})', "raw",
       "wire/gemini/test_turns.py", "-k", "arguments"),
    _m("images stand in results of old models", "wire/gemini/turns.py",
       "elif self._family.media_in_results and", "elif",
       "wire/gemini/test_turns.py", "-k", "images"),
    _m("media types go as they are written", "wire/gemini/turns.py",
       "return _MISSPELT.get(kind, kind)", "return kind",
       "wire/gemini/test_turns.py", "-k", "media_types"),
    _m("a chosen function keeps its name", "wire/gemini/request.py",
       "names = set(map(wire_name, chosen))", "names = set(chosen)", "wire/gemini/test_names.py"),
    _m("a result of before there were tools has no call", "wire/chat/shapes.py",
       "ToolCall(legacy.name, function", "ToolCall(function",
       "wire/gemini/test_turns.py", "-k", "before_there_were_tools"),
    _m("a changed name goes to an OpenAI caller", "wire/chat/names.py",
       "meant = self._callers.get(name, name)", "meant = name",
       "wire/chat/test_names.py", "-k", "streamed"),
    _m("a piece of a name goes out", "wire/chat/names.py", "if is_begun and not is_last",
       "if False and not is_last", "wire/chat/test_names.py", "-k", "pieces"),
    _m("a changed name goes to the caller", "wire/chat/made.py",
       "self._names.get(wire, wire) if may", "wire if may", "wire/gemini/test_names.py"),
    _m("all calls are given though one was asked for", "wire/gemini/choice.py",
       "if self._ids and self._asked.one_call:", "if False:", "wire/gemini/test_names.py"),
    _m("a format stands beside tools of old models", "wire/gemini/request.py",
       "if formatted and tools and not family.combines_tools:", "if False:",
       "wire/gemini/test_request.py", "-k", "format_beside"),
    _m("text of a call in parts is its last piece", "wire/gemini/choice.py",
       "text.write(piece.string_value)",
       "text.seek(0), text.truncate(), text.write(piece.string_value)",
       "wire/gemini/test_stream.py", "-k", "in_parts"),
    _m("calls are given as they end", "wire/gemini/choice.py",
       "        while self._open and self._open[0].is_whole:\n",
       "        self._open.sort(key=lambda call: not call.is_whole)\n"
       "        while self._open and self._open[0].is_whole:\n",
       "wire/gemini/test_stream.py", "-k", "in_parts"),
    _m("an unexpected call is a failure", "wire/gemini/choice.py",
       " and not (reason == _UNEXPECTED and self._ids)", "",
       "wire/gemini/test_stream.py", "-k", "in_parts"),
    _m("types in capitals are none", "wire/gemini/schema.py",
       'name.lower() if isinstance(name, str) else ""', 'name if isinstance(name, str) else ""',
       "wire/gemini/test_schema.py", "-k", "capitals"),
    _m("a reference into a list leads nowhere", "wire/references.py",
       "key.isdecimal() and", "False and", "wire/gemini/test_schema.py", "-k", "any_place"),
    _m("of two bounds the wider one holds", "wire/gemini/schema.py",
       '"minimum": max, "maximum": min', '"minimum": min, "maximum": max',
       "wire/gemini/test_schema.py", "-k", "more_keywords"),
]  # fmt: skip


class Outcome(NamedTuple):
    """`status`: pytest's, None when it took too long."""

    status: int | None
    took_s: float
    output: str

    @property
    def is_caught(self) -> bool:
        """Whether tests fell; a mutant that cannot even be collected proves nothing."""
        return self.status in (FAILED, None) and "error during collection" not in self.output


def copy_tree(to: Path) -> None:
    """What the tests need, into a directory of its own."""
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc", ".hypothesis")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, to / name, ignore=ignored)
        else:
            shutil.copy2(ROOT / name, to / name)


def run_tests(tree: Path, arguments: tuple[str, ...]) -> Outcome:
    """pytest in a tree, in which `proxy` is the tree's own."""
    named = [f"tests/{each}" if ".py" in each else each for each in arguments]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *named]
    env = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    began = time.monotonic()
    try:
        done = subprocess.run(
            command, cwd=tree, env=env, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return Outcome(None, time.monotonic() - began, "")
    return Outcome(done.returncode, time.monotonic() - began, done.stdout + done.stderr)


def try_out(mutant: Mutant) -> tuple[Outcome, Outcome]:
    """The outcome of its tests without the mutant, and with it."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as directory:
        tree = Path(directory)
        copy_tree(tree)
        sound = run_tests(tree, mutant.tests)
        path = tree / mutant.path
        text = path.read_text()
        assert text.count(mutant.old) == 1, f"{mutant.name}: not once in {mutant.path}"
        path.write_text(text.replace(mutant.old, mutant.new))
        return sound, run_tests(tree, mutant.tests)


def main(names: list[str]) -> int:
    """Try out the mutants of these names, or all; the exit status."""
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    began = time.monotonic()
    caught = 0
    with ThreadPoolExecutor(JOBS) as pool:
        for mutant, (sound, broken) in zip(chosen, pool.map(try_out, chosen), strict=True):
            is_good = sound.status == PASSED and broken.is_caught
            caught += is_good
            verdict = "caught" if is_good else "SURVIVED"
            if sound.status != PASSED:
                verdict = "TESTS FAIL WITHOUT IT"
            print(f"{verdict:9} {broken.took_s:5.1f} s  {mutant.path:24} {mutant.name}", flush=True)
            if not is_good:
                print(sound.output[-2000:] if sound.status != PASSED else broken.output[-2000:])
    took_s = time.monotonic() - began
    print(f"{caught} of {len(chosen)} mutants caught in {took_s:.0f} s")
    return 0 if chosen and caught == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
