"""OpenAI chat to and from Gemini's generateContent (v1beta, the API-key service). Pure."""
