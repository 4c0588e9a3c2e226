"""The server's pepper: 32 random bytes in a file of the data directory, without which no stored key
hash can be checked. Made once, by whichever process comes first.
"""

import os
import secrets
from contextlib import suppress
from pathlib import Path

from nestling.errors import StoreError

PEPPER_FILE_NAME = "pepper"
_NUM_BYTES = 32


def read_pepper(data_dir: Path) -> bytes | None:
    """Return the pepper, None if there is no file; raises `StoreError` if the file is not ours."""
    path = data_dir / PEPPER_FILE_NAME
    try:
        pepper = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from error
    if len(pepper) != _NUM_BYTES:
        raise StoreError(f"{path}: expected {_NUM_BYTES} bytes, but got {len(pepper)}")
    return pepper


def create_pepper(data_dir: Path) -> bytes:
    """Make the file, mode 0600, complete or not at all; return the pepper that is in it then."""
    path = data_dir / PEPPER_FILE_NAME
    draft = data_dir / f".{PEPPER_FILE_NAME}.{secrets.token_hex(8)}"
    try:
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(secrets.token_bytes(_NUM_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # another process was first, and its pepper counts
            os.link(draft, path)
    except OSError as error:
        raise StoreError(f"{path}: cannot be made: {error.strerror}") from error
    finally:
        draft.unlink(missing_ok=True)
    pepper = read_pepper(data_dir)
    assert pepper is not None
    return pepper
