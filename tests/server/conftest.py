"""The server is tested with the API's routes on the fake model, over real sockets."""

from tests.api.conftest import _logs, accounts, app, chat, one_key, settings, url

__all__ = ["_logs", "accounts", "app", "chat", "one_key", "settings", "url"]
