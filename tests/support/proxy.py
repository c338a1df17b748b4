"""A wire between a client and the server that breaks just when the client commits."""

from __future__ import annotations

import contextlib
import random
import re
import select
import socket
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from psycopg.conninfo import conninfo_to_dict

from tests.support.servers import url

_PORT = 5432
_COMMIT = re.compile(rb"COMMIT\b")
"""Not that of BEGIN ISOLATION LEVEL READ COMMITTED."""


class BreakingWire:
    """Passes everything on, but cuts some connections at their COMMIT: before the server reads it, or after it did.

    Parameters
    ----------
    dsn: where it leads.
    share: how many of the commits are cut.
    """

    def __init__(self, dsn: str, *, share: float, seed: int) -> None:
        self._to = {key: str(value) for key, value in conninfo_to_dict(dsn).items() if value is not None}
        self._directory = tempfile.TemporaryDirectory(prefix="zdm-wire-")
        self._random = random.Random(seed)
        self._share = share
        self._lock = threading.Lock()
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(Path(self._directory.name) / f".s.PGSQL.{_PORT}"))
        self._listening.listen(50)
        self.dsn = url({**self._to, "host": self._directory.name, "port": str(_PORT)})
        self.lost = 0
        """Commits that the server never heard of."""
        self.unanswered = 0
        """Commits that the server did, and the client never heard of."""

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="wire", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._share = 0
        self._listening.close()
        self._directory.cleanup()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _connect(self) -> socket.socket:
        host, port = self._to.get("host", "localhost"), self._to.get("port", "5432")
        if not host.startswith("/"):
            return socket.create_connection((host, int(port)))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{host}/.s.PGSQL.{port}")
        return server

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), self._connect() as server:
            while True:
                ready, _, _ = select.select([client, server], [], [])
                for one in ready:
                    data = one.recv(65536)
                    if not data:
                        return
                    if one is server:
                        client.sendall(data)
                    elif self._passed(server, data):
                        continue
                    else:
                        return

    def _passed(self, server: socket.socket, data: bytes) -> bool:
        with self._lock:
            cut = _COMMIT.search(data) is not None and self._random.random() < self._share
            before = cut and self._random.random() < 0.5
            self.lost += before
            self.unanswered += cut and not before
        if before:
            return False
        server.sendall(data)
        if cut:
            server.recv(65536)  # so the server has done it
        return not cut
