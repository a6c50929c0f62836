"""OpenAI text completions: a prompt as a chat request, and chat answers as text."""
