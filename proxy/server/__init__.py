"""The gunicorn process that serves the gateway. Never imported where the gateway is embedded."""
