"""zdm led by a test: nothing of what it says may be lost, or the test waits for ever."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import cast

from tests.support.mortal import Ended, Led, Mortal


class Hasty:
    """Says who it is, and that it stands, before anybody listens; then it is at its end."""

    def __init__(self) -> None:
        self.line = socket.socket(socket.AF_UNIX)

    def ask(self, request: Mapping[str, object]) -> None:
        self.line.connect(str(request["control"]))
        self.line.sendall(b"4194305\ns")  # above every process id

    def answer(self) -> Ended:
        self.line.close()
        return Ended(state="rolled_back")


def test_a_command_that_stands_before_it_is_listened_to_is_seen() -> None:
    led = Led(cast("Mortal", Hasty()), {"do": "rollback"})
    led.look(0)
    assert led.standing
    led.kill()


def test_a_command_that_ends_before_it_is_killed_was_not_killed() -> None:
    led = Led(cast("Mortal", Hasty()), {"do": "rollback"})
    led.kill()
    assert led.ended == Ended(state="rolled_back")
