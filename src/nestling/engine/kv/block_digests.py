"""Names blocks of tokens in the prefix cache: a keyed hash of all tokens up to its end.

The chain begins with the request's salt, so equal tokens of two accounts have different names, and
the key is secret and new in every engine, so no prompt can be made to collide with another.
"""

import hashlib
import secrets
from array import array

from nestling.engine.request import Request

Digest = bytes
_DIGEST_BYTES = 32


class BlockHasher:
    """Names full blocks; a request keeps its names, so each block is hashed once."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._key = secrets.token_bytes(_DIGEST_BYTES)

    def digests(self, request: Request) -> list[Digest]:
        """One for each full block of the request's present tokens, computed or not."""
        digests = request.block_digests
        size = self._block_size
        num_full = request.num_tokens // size
        if len(digests) >= num_full:
            return digests
        parent = (
            digests[-1]
            if digests
            else self._hash(b"salt", request.cache_salt.encode(errors="surrogatepass"))
        )
        begin = len(digests) * size
        tokens = array("q", request.token_ids[begin : num_full * size]).tobytes()
        step = size * array("q").itemsize
        for at in range(0, len(tokens), step):
            parent = self._hash(parent, tokens[at : at + step])
            digests.append(parent)
        return digests

    def _hash(self, parent: bytes, content: bytes) -> Digest:
        return hashlib.blake2b(parent + content, digest_size=_DIGEST_BYTES, key=self._key).digest()
