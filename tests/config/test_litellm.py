"""A file of LiteLLM's is told from a mistaken one of ours, in each shape that people post."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.cli import main

KEY = "sk-proj-0123456789abcdef"

POSTED = {
    "model_list": f"""
        model_list:
          - model_name: gpt-4-turbo
            litellm_params:
              model: openai/gpt-4-1106-preview
              api_base: https://api.openai.com/v1
              api_key: "os.environ/OPENAI_API_KEY"
          - model_name: mistral-small
            litellm_params:
              model: mistral/mistral-small
              api_key: {KEY}
        """,
    "model_list, litellm_settings, general_settings": """
        model_list:
          - model_name: "*"
            litellm_params:
              model: openai/*
              api_key: sk-P****
        litellm_settings:
          drop_params: True
          num_retries: 3
          fallbacks: [{"gpt-4o": ["claude-sonnet"]}]
        general_settings:
          master_key: sk-1234
          database_url: "postgresql://llmproxy:dbpassword9090@db:5432/litellm"
        environment_variables:
          REDIS_HOST: localhost
        """,
    "litellm_settings, general_settings": """
        include:
          - model_config.yaml
        litellm_settings:
          callbacks: ["langfuse"]
        general_settings:
          master_key: os.environ/MASTER_KEY
        """,
    "router_settings": "router_settings: {routing_strategy: simple-shuffle, num_retries: 2}",
    "litellm_params": """
        - model_name: local
          litellm_params:
            model: ollama/llama3.2
            api_base: http://host.docker.internal:11434
        """,
}


@pytest.mark.parametrize("command", ["check", "serve"])
@pytest.mark.parametrize("sections", POSTED)
def test_file_of_litellms_is_recognised(
    sections: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line that points to the page, instead of one for each unknown key."""
    path = tmp_path / "litellm.yaml"
    path.write_text(POSTED[sections])
    assert main([command, str(path)]) == 2
    out, err = capsys.readouterr()
    said = "a file of LiteLLM's: docs/migrating.md says what becomes of it"
    assert (out, err) == ("", f"{path}: {sections}: {said}\n")


def test_file_with_keys_of_both_is_litellms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As while it is being rewritten."""
    path = tmp_path / "config.yaml"
    path.write_text("demo: [{}]\nmodel_list: []\n")
    assert main(["check", str(path)]) == 2
    assert ": model_list: a file of LiteLLM's" in capsys.readouterr().err


def test_lists_of_other_things_are_not_litellms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A list is no configuration, whoever's."""
    path = tmp_path / "config.yaml"
    path.write_text("- 7\n- {a: b}\n")
    assert main(["check", str(path)]) == 2
    assert "expected a mapping of settings, got a list" in capsys.readouterr().err
