"""The look-up service as `serve run` imports it.

From the repository's root:

    PYTHONPATH=platform serve run serve.app:app registry=/path/to/registry

`config.yaml` names the application by its package, which is there wherever Backstay is installed.
"""

from backstay.serving.service import application as app

__all__ = ["app"]
