"""What the garbage collector leaves alone while the server runs."""

import gc

from nestling.server.serving import spare_startup_objects


def test_startup_objects_are_passed_over_and_later_ones_are_not() -> None:
    before: list[object] = []
    try:
        spare_startup_objects()
        after: list[object] = []
        seen = {id(item) for item in gc.get_objects()}
        assert gc.get_freeze_count() > 0
        assert id(before) not in seen
        assert id(after) in seen
    finally:
        gc.unfreeze()
