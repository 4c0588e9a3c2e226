"""Element types of model files, by GGML's names and codes: those the core reads, and others.

The core has the table of the types that it reads. Types that other programs write stand here, so
that a message can name them and the places of tensors behind them can be checked.
"""

from functools import cache

from nestling.native.weights import StoredType, stored_types

UNREAD_TYPES = (
    StoredType("IQ2_XXS", 16, 256, 66),
    StoredType("IQ2_XS", 17, 256, 74),
    StoredType("IQ3_XXS", 18, 256, 98),
    StoredType("IQ1_S", 19, 256, 50),
    StoredType("IQ3_S", 21, 256, 110),
    StoredType("IQ2_S", 22, 256, 82),
    StoredType("I8", 24, 1, 1),
    StoredType("I16", 25, 1, 2),
    StoredType("I32", 26, 1, 4),
    StoredType("I64", 27, 1, 8),
    StoredType("F64", 28, 1, 8),
    StoredType("IQ1_M", 29, 256, 56),
    StoredType("TQ1_0", 34, 256, 54),
    StoredType("TQ2_0", 35, 256, 66),
    StoredType("MXFP4", 39, 32, 17),
    StoredType("NVFP4", 40, 64, 36),
)


def is_read(name: str) -> bool:
    """Return whether the core reads tensors of this type."""
    return name in _read_by_name()


def stored_type(name: str) -> StoredType:
    """Return what is known of a type that the core reads."""
    return _read_by_name()[name]


@cache
def types_by_code() -> dict[int, StoredType]:
    """Return all types that have a name, by GGML's code."""
    return {known.ggml_type: known for known in (*stored_types(), *UNREAD_TYPES)}


@cache
def _read_by_name() -> dict[str, StoredType]:
    return {known.name: known for known in stored_types()}
