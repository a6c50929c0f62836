"""OpenAI chat to and from Gemini's generateContent (v1beta, the API-key service).

Pure: no sockets, threads, clock or randomness. `request` turns a chat request into Gemini's,
`reply` and `stream` turn its answers back, `errors` reads its refusals, `models` its model list.
"""
