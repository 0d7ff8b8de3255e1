"""The look-up service, for `serve run`.

From the repository's root:

    PYTHONPATH=platform serve run serve.app:app registry=/path/to/registry

`machine.yaml` and `cluster.yaml` import the application from the package instead, which needs an
installed Backstay.
"""

from backstay.serving.service import application as app

__all__ = ["app"]
