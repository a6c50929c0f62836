"""gunicorn's configuration: everything follows from config.yaml (or $PROXY_CONFIG).

    gunicorn -c gunicorn.conf.py

Settings given on the command line win; `WEB_CONCURRENCY` sets the number of workers.
`poolproxy serve` does the same without this file.
"""

from proxy import serving

_config = serving.load_or_exit()
serving.set_up_process(_config)
globals().update(serving.settings(_config))
