"""`uvicorn examples.proxy_manager.app:app`: the application with the environment's settings."""

from __future__ import annotations

import os

from examples.proxy_manager.factory import create_app
from examples.proxy_manager.settings import SettingsError
from examples.proxy_manager.settings import load_settings

try:
    app = create_app(load_settings(os.environ))
except SettingsError as error:
    # One line for the operator instead of a traceback; the exit status is 1.
    raise SystemExit(f"proxy manager: {error}") from None
