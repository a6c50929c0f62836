"""gunicorn's configuration: everything follows from config.yaml (or $PROXY_CONFIG).

    gunicorn -c gunicorn.conf.py

Settings given on the command line win; `WEB_CONCURRENCY` sets the number of workers.
`poolproxy serve` does the same without this file.
"""

from proxy.server import settings

_config = settings.load_or_exit()
settings.set_up_process(_config)
globals().update(settings.settings(_config))
