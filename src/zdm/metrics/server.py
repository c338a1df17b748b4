"""``zdm metrics``: one page for Prometheus, over HTTP or once to stdout."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from psycopg.conninfo import make_conninfo

from zdm.db.session import connect, normalize_url
from zdm.errors import BadInput, ZdmError
from zdm.metrics.collector import CatalogCollector

DEFAULT_LISTEN: Final = ":9464"
_CONNECT_SECONDS: Final = 3
_ANY: Final = "0.0.0.0"  # noqa: S104  # ":9464" means every interface, as everywhere; name an address for less


def render(url: str, *, replicas: Sequence[str] = ()) -> bytes:
    """The metrics once, in Prometheus' text format."""
    with _registry(url, replicas) as registry:
        return generate_latest(registry)


def serve(
    listen: str,
    url: str,
    *,
    replicas: Sequence[str] = (),
    ready: Callable[[str, int], None] | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Answer scrapes until SIGTERM or SIGINT (or until `stop` is set). Starts without a database; that is ``zdm_up 0``.

    Parameters
    ----------
    listen: ``:9464``, ``127.0.0.1:9464``, ``[::1]:9464``; port 0 takes a free one.
    ready: called with address and port once it answers.
    stop: ends it from another thread.

    Raises
    ------
    BadInput: `listen` or `url` cannot be read.
    ZdmError: the port cannot be had.
    """
    host, port = parse_listen(listen)
    done = stop or threading.Event()
    with _registry(url, replicas) as registry, _signals(done):
        try:
            httpd, thread = start_http_server(port, host, registry)
        except OSError as error:
            raise ZdmError(
                f"Cannot listen on {host}:{port}: {error.strerror or error}.",
                remedy="Name another with --listen.",
            ) from None
        try:
            if ready is not None:
                ready(host, httpd.server_port)
            done.wait()
        finally:
            httpd.shutdown()
            httpd.server_close()
            thread.join()


def parse_listen(text: str) -> tuple[str, int]:
    """``:9464`` and its longer forms, as address and port. Raises BadInput with what is accepted."""
    host, _, port = text.strip().rpartition(":")
    if (
        not port.isdigit()
        or int(port) > 65535
        or (":" in host and not (host.startswith("[") and host.endswith("]")))
    ):
        raise BadInput(
            f"{text!r} is not an address to listen on",
            remedy="Write it as :9464, 127.0.0.1:9464 or [::1]:9464.",
        )
    return host.strip("[]") or _ANY, int(port)


@contextmanager
def _registry(url: str, replicas: Sequence[str]) -> Iterator[CollectorRegistry]:
    # A peer that vanished without a word must not hang a scrape; connection parameters in the URL win.
    target = normalize_url(url)
    given = psycopg.conninfo.conninfo_to_dict(target)
    bounded = make_conninfo(target, **({} if "tcp_user_timeout" in given else {"tcp_user_timeout": 5000}))

    def open_session() -> psycopg.Connection[Any]:
        return connect(bounded, application_name="zdm metrics", timeout=_CONNECT_SECONDS)

    collector = CatalogCollector(open_session, replicas)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    try:
        yield registry
    finally:
        collector.close()


@contextmanager
def _signals(done: threading.Event) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        done.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
