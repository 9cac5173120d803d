"""The link: lower bounds on times are what it promises, upper ones only say that it does not hang."""

from __future__ import annotations

import gc
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from statistics import median
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import links
from tapestry.errors import InputError, PortInUse

TIMEOUT_S = 20.0
SLOW_S = 5.0
"""More than a slow machine needs for what takes no time."""
PLAIN = links.Link()

Pair = tuple[socket.socket, socket.socket]
"""Who connected, and the target's end."""


def payload(size: int) -> bytes:
    return bytes(i * i % 251 for i in range(min(size, 4096))) * (size // 4096 + 1)


@contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as target:
        target.settimeout(TIMEOUT_S)
        yield target


@contextmanager
def linked(
    up: links.Link = PLAIN, down: links.Link = PLAIN
) -> Iterator[tuple[links.Proxy, Callable[[], Pair]]]:
    """A link, and a function that makes connections through it."""
    with ExitStack() as stack:
        target = stack.enter_context(listening())
        port = target.getsockname()[1]
        proxy = stack.enter_context(links.Proxy("127.0.0.1", port, up=up, down=down, seed=7))

        def connect() -> Pair:
            near = stack.enter_context(socket.create_connection(("127.0.0.1", proxy.port), TIMEOUT_S))
            far, _ = target.accept()
            far.settimeout(TIMEOUT_S)
            return near, stack.enter_context(far)

        yield proxy, connect


def receive(sock: socket.socket, size: int) -> bytes:
    """So many bytes, or all until the end."""
    got = bytearray()
    while len(got) < size and (part := sock.recv(size - len(got))):
        got += part
    return bytes(got)


def cross(source: socket.socket, sink: socket.socket, data: bytes) -> bytes:
    """What arrives of `data`, sent meanwhile."""
    sender = threading.Thread(target=source.sendall, args=(data,))
    sender.start()
    got = receive(sink, len(data))
    sender.join(TIMEOUT_S)
    return got


LINKS = {
    "plain": PLAIN,
    "slow": links.Link(rate_bits_s=400e6),
    "far": links.Link(delay_s=0.02),
    "bad": links.Link(rate_bits_s=400e6, delay_s=0.002, loss=0.1),
}


@pytest.mark.parametrize("name", LINKS)
def test_bytes_arrive_unchanged_both_ways(name: str) -> None:
    data = payload(3_000_001)
    with linked(LINKS[name], LINKS[name]) as (proxy, connect):
        near, far = connect()
        assert cross(near, far, data) == data
        assert cross(far, near, data[::-1]) == data[::-1]
        deadline = time.monotonic() + SLOW_S
        while (found := proxy.counts).bytes_down < len(data) and time.monotonic() < deadline:
            time.sleep(0.01)  # counted just after they were handed on
        assert (found.connections, found.resets) == (1, 0)
        assert (found.bytes_up, found.bytes_down) == (len(data), len(data))


@pytest.fixture(scope="module")
def pairs() -> Iterator[Callable[[], Pair]]:
    link = links.Link(rate_bits_s=1e9, delay_s=0.001, loss=0.2)
    with linked(link, link) as (_, connect):
        yield connect


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(0, 20_000), max_size=12), pause=st.booleans())
def test_any_sizes_of_writes_arrive_unchanged(
    pairs: Callable[[], Pair], sizes: list[int], pause: bool
) -> None:
    near, far = pairs()
    data = payload(sum(sizes))[: sum(sizes)]
    with near, far:
        at = 0
        for size in sizes:
            near.sendall(data[at : at + size])
            at += size
            time.sleep(0.0005 if pause else 0)
        near.shutdown(socket.SHUT_WR)
        assert receive(far, len(data) + 1) == data


@pytest.mark.parametrize("connections", [1, 2])
def test_the_rate_is_shared_by_all_connections(connections: int) -> None:
    rate, size = 8e6, 200_000
    data = payload(size // connections)
    with linked(up=links.Link(rate_bits_s=rate)) as (_, connect):
        made = [connect() for _ in range(connections)]
        took = []
        for _ in range(3):
            began = time.monotonic()
            threads = [threading.Thread(target=cross, args=(*pair, data)) for pair in made]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(TIMEOUT_S)
            took.append(time.monotonic() - began)
        due_s = len(data) * connections * 8 / rate
        assert 0.85 * due_s < median(took) < 4 * due_s + 1  # a burst of 20 ms of these 200 is allowed


def test_a_small_message_does_not_wait_for_all_of_another_connection() -> None:
    with linked(up=links.Link(rate_bits_s=4e6)) as (_, connect):
        (big, sink), (small, far) = connect(), connect()
        sender = threading.Thread(target=cross, args=(big, sink, payload(500_000)), daemon=True)
        sender.start()
        time.sleep(0.1)
        assert cross(small, far, b"!") == b"!"
        assert sender.is_alive()
        sender.join(TIMEOUT_S)


def test_each_direction_has_its_delay_once() -> None:
    with linked(links.Link(delay_s=0.15), links.Link(delay_s=0.05)) as (_, connect):
        near, far = connect()
        began = time.monotonic()
        assert cross(near, far, b"to") == b"to"
        there = time.monotonic()
        assert cross(far, near, b"fro") == b"fro"
        back = time.monotonic()
        assert 0.15 <= there - began < SLOW_S
        assert 0.05 <= back - there < SLOW_S


def test_many_chunks_are_under_way_at_once() -> None:
    delay_s, count = 0.3, 60
    with linked(up=links.Link(delay_s=delay_s)) as (_, connect):
        near, far = connect()
        began = time.monotonic()
        for _ in range(count):
            near.sendall(b"x")
            time.sleep(0.001)
        assert receive(far, count) == b"x" * count
        assert delay_s <= time.monotonic() - began < count * delay_s / 2


def test_what_is_lost_comes_a_round_trip_later() -> None:
    with linked(links.Link(delay_s=0.05, loss=1.0), links.Link(delay_s=0.1)) as (_, connect):
        near, far = connect()
        began = time.monotonic()
        assert cross(near, far, payload(5000)) == payload(5000)
        assert 0.2 <= time.monotonic() - began < SLOW_S


def test_a_full_queue_holds_the_sender_back() -> None:
    with linked() as (_, connect):
        near, _ = connect()
        near.settimeout(0.5)
        taken = 0
        with pytest.raises(TimeoutError):  # nobody reads
            while taken < 64 << 20:
                taken += near.send(bytes(64 << 10))
        assert taken < 8 << 20, "the queue and the system's buffers"


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_reset_is_seen_at_both_ends(way: str) -> None:
    link = links.Link(reset_after_bytes=1000)
    with linked(**{way: link}) as (proxy, connect):
        pair = connect()
        source, sink = pair if way == "up" else pair[::-1]
        source.sendall(payload(5000)[:5000])
        got = bytearray()
        with pytest.raises(ConnectionResetError):
            while part := sink.recv(5000):
                got += part
        assert got == payload(5000)[: len(got)] and len(got) <= 1000
        with pytest.raises(ConnectionResetError):
            source.recv(1)
        assert proxy.counts.resets == 1
        assert cross(*connect(), b"again") == b"again"


def test_a_reset_by_chance() -> None:
    with linked(up=links.Link(reset_chance=1.0)) as (_, connect):
        near, far = connect()
        near.sendall(b"x")
        for end in (near, far):
            with pytest.raises(ConnectionResetError):
                end.recv(1)


def test_a_reset_by_one_end_reaches_the_other() -> None:
    with linked(up=links.Link(delay_s=0.05)) as (proxy, connect):
        near, far = connect()
        near.sendall(b"last")
        near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, links._NO_LINGER)
        near.close()
        with pytest.raises(ConnectionResetError):
            receive(far, 100)
        assert proxy.counts.resets == 0, "not the link's"


def test_one_way_may_end_while_the_other_goes_on() -> None:
    with linked(links.Link(delay_s=0.01), links.Link(delay_s=0.01)) as (_, connect):
        near, far = connect()
        near.sendall(b"question")
        near.shutdown(socket.SHUT_WR)
        assert receive(far, 100) == b"question"
        for _ in range(3):
            assert cross(far, near, payload(100_000)) == payload(100_000)
        far.close()
        assert near.recv(1) == b""


def test_closing_ends_all() -> None:
    before = set(threading.enumerate())
    with listening() as target, ExitStack() as ends:
        with links.Proxy(
            "localhost", target.getsockname()[1], up=PLAIN, down=links.Link(delay_s=60)
        ) as proxy:
            near = ends.enter_context(socket.create_connection(("127.0.0.1", proxy.port), TIMEOUT_S))
            far = ends.enter_context(closing(target.accept()[0]))
            far.settimeout(TIMEOUT_S)
            far.sendall(b"under way for a minute")
            assert cross(near, far, b"x") == b"x"
        for end in (near, far):
            with pytest.raises(ConnectionResetError):
                end.recv(1)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", proxy.port), TIMEOUT_S)
    assert set(threading.enumerate()) <= before


def test_a_target_that_refuses_resets() -> None:
    with listening() as gone:
        port = gone.getsockname()[1]
    with (
        links.Proxy("127.0.0.1", port, up=PLAIN, down=PLAIN) as proxy,
        pytest.raises(ConnectionResetError),  # as soon as in connect
        socket.create_connection(("127.0.0.1", proxy.port), TIMEOUT_S) as near,
    ):
        near.recv(1)


@pytest.mark.parametrize(
    "values",
    [
        {"rate_bits_s": 0},
        {"rate_bits_s": float("nan")},
        {"delay_s": -1},
        {"loss": 1.5},
        {"reset_chance": -0.1},
        {"reset_after_bytes": 0},
    ],
)
def test_no_such_link(values: dict[str, float]) -> None:
    with pytest.raises(InputError):
        links.Link(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["192.0.2.1", "0.0.0.0", "::", "example.org", ""])
def test_only_the_loopback_is_a_target(host: str) -> None:
    with pytest.raises(InputError, match="not on the loopback"):
        links.Proxy(host, 80, up=PLAIN, down=PLAIN)


def test_a_port_in_use_is_named() -> None:
    with listening() as taken, pytest.raises(PortInUse, match=str(port := taken.getsockname()[1])):
        links.Proxy("127.0.0.1", port, up=PLAIN, down=PLAIN, listen_port=port)


def test_settings_of_the_command() -> None:
    text = "--to [::1]:80 --rate 10Mbit/1.5Gbit --delay 100ms --loss 1% --reset-after 8MiB/1B"
    given = links.parser().parse_args(text.split())
    assert given.to == ("::1", 80)
    assert links._links(given) == [
        links.Link(rate_bits_s=10e6, delay_s=0.1, loss=0.01, reset_after_bytes=8 << 20),
        links.Link(rate_bits_s=1.5e9, delay_s=0.1, loss=0.01, reset_after_bytes=1),
    ]
    assert links._links(links.parser().parse_args(["--to", "localhost:80"])) == [PLAIN, PLAIN]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--to 192.0.2.1:80", "the target 192.0.2.1 is not on the loopback"),
        ("--to 127.0.0.1", "'127.0.0.1' is no HOST:PORT"),
        ("--to 127.0.0.1:99999", "'99999' is no port"),
        ("--to localhost:80 --rate 10", "'10' is no rate; write a number, with 'bit' or 'kbit'"),
        ("--to localhost:80 --rate 0bit", "a link cannot carry 0.0 bit/s"),
        ("--to localhost:80 --loss 101%", "is no chance"),
    ],
)
def test_the_command_refuses(arguments: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        links.main(arguments.split())
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.filterwarnings("always::ResourceWarning")
def test_who_connects_while_it_closes_is_let_go(recwarn: pytest.WarningsRecorder) -> None:
    with listening() as target:
        for _ in range(20):
            with links.Proxy("127.0.0.1", target.getsockname()[1], up=PLAIN, down=PLAIN) as proxy:
                nears = [socket.create_connection(("127.0.0.1", proxy.port), TIMEOUT_S) for _ in range(3)]
            for near in nears:
                near.close()
    gc.collect()
    assert [str(each.message) for each in recwarn if each.category is ResourceWarning] == []


def test_the_command_until_it_is_stopped() -> None:
    with listening() as target:
        to = f"127.0.0.1:{target.getsockname()[1]}"
        command = [sys.executable, "-m", "benchmarks.links", "--to", to, "--delay", "10ms"]
        run = SimpleNamespace(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        with subprocess.Popen(command, **vars(run)) as process:
            assert process.stdout is not None
            port = int(process.stdout.readline().removeprefix("listening on 127.0.0.1:"))
            with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as near, target.accept()[0] as far:
                assert cross(near, far, b"hello") == b"hello"
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0
        assert "connections=1" in err and "bytes_up=5" in err
