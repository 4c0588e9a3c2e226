"""The one tree of errors that Nestling raises for bad input and failed work.

Every error says what was expected and what came. `server/errors.py` maps the tree to HTTP and
`cli/main.py` to exit codes; nothing else turns an error into a status. Our own mistakes are
asserts, not these.
"""


class NestlingError(Exception):
    """Root of the tree. `code` is machine-readable; `param` names the field at fault, if one is."""

    code = "internal_error"
    exit_code = 1

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code


class InvalidRequestError(NestlingError):
    """The request breaks a rule, so sending it again unchanged cannot help."""

    code = "invalid_request"
    exit_code = 2


class ModelNotFoundError(InvalidRequestError):
    """The request names a model that this server does not serve."""

    code = "model_not_found"


class ContextLengthExceededError(InvalidRequestError):
    """Prompt and answer do not fit the context, or can never fit the KV cache."""

    code = "context_length_exceeded"


class AuthenticationError(NestlingError):
    """The request has no key, a wrong key, or one that is disabled or expired."""

    code = "invalid_api_key"


class PermissionDeniedError(NestlingError):
    """The key is valid but may not do this: wrong kind, wrong scope, or another key's data."""

    code = "permission_denied"


class QuotaExceededError(PermissionDeniedError):
    """The key's spending limit does not cover the request."""

    code = "insufficient_quota"


class NotFoundError(NestlingError):
    """The thing named does not exist."""

    code = "not_found"


class OverloadedError(NestlingError):
    """The waiting queue is full. The caller may try again after `retry_after_s` seconds."""

    code = "overloaded"

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RateLimitError(NestlingError):
    """The key has used its share of a minute. It may try again after `retry_after_s` seconds."""

    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class EngineError(NestlingError):
    """The engine could not finish this request."""

    code = "engine_error"


class EngineRestartedError(EngineError):
    """The engine process died while it had the request. A new process is starting."""

    code = "engine_restarted"


class ServerShutdownError(EngineError):
    """The server is shutting down."""

    code = "server_shutdown"


class SettingsError(NestlingError):
    """A setting has an unknown key or a bad value. The message names place, key and what fits."""

    code = "bad_setting"
    exit_code = 2


class ModelFileError(NestlingError):
    """A model file is missing, corrupt or no Gemma 3n. The message names file and tensor or key."""

    code = "bad_model_file"
    exit_code = 2

    def __init__(self, path: object, problem: str, *, tensor: str | None = None) -> None:
        at = f"{path}: tensor {tensor}" if tensor else str(path)
        super().__init__(f"{at}: {problem}")
        self.path = str(path)
        self.tensor = tensor


class StoreError(NestlingError):
    """The accounts database cannot be opened, read or written."""

    code = "store_error"


class UsageUnavailableError(StoreError):
    """Usage cannot be recorded, so no request that must be counted may begin."""

    code = "usage_unavailable"


def shown(value: object) -> str:
    """Return a value as it may stand in a message, cut after 100 characters."""
    text = str(value) if not isinstance(value, str) else value
    return text if len(text) <= 100 else f"{text[:100]}..."
