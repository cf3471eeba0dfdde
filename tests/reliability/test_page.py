"""The page under attack: all at once whatever a stranger might send, and the good requests answered all the same."""

import io
import random
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import RELIABILITY, SEED
from PIL import Image
from test_demo import Client, Server, digits, encoded, exported, memory_mb, picture, server  # noqa: F401 - fixtures

from digits import demo

pytestmark = pytest.mark.slow
GOOD = 64
MUTATED = 1000
MOST_MEGABYTES = 1500  # two pictures of 100 megapixels at a time are read


def mutated(content: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    return bytes(damaged[: rng.randrange(1, len(damaged))] if rng.random() < 0.3 else damaged)


def raw(client: Client, content: bytes) -> bytes:
    """What the server says to bytes that no client would send; nothing where it hangs up."""
    with socket.create_connection(("127.0.0.1", client.port), timeout=60) as connection:
        try:
            connection.sendall(content)
            connection.shutdown(socket.SHUT_WR)
            return connection.recv(100)
        except (ConnectionError, TimeoutError):
            return b""


def huge(mode: str) -> bytes:
    """A file of a few kilobytes with a picture of 100 megapixels."""
    with io.BytesIO() as file:
        Image.new(mode, (10_000, 9_990)).save(file, "PNG")
        return file.getvalue()


def test_silent_connections_are_closed(server: Server) -> None:  # noqa: F811
    client, _ = server
    silent = [socket.create_connection(("127.0.0.1", client.port)) for _ in range(demo.MOST_CONNECTIONS)]
    try:
        for i, connection in enumerate(silent):
            if i % 2:
                connection.sendall(b"GET / HT")
        time.sleep(2 * demo.HEAD_SECONDS + 2)
        assert client.get("/").status == 200
        for connection in silent:
            connection.settimeout(5)
            assert connection.recv(1) == b""  # the server has hung up
    finally:
        for connection in silent:
            connection.close()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_good_requests_are_answered_amid_hostile_ones(
    server: Server,  # noqa: F811
    picture: bytes,  # noqa: F811
    record_property: Callable[[str, object], None],
) -> None:
    client, process = server
    rng = random.Random(SEED)
    expected = client.one(picture)["probabilities"]
    before = memory_mb(process)
    answers: list[list[float]] = []
    statuses: list[int] = []

    def good() -> None:
        answer = client.predict(picture)
        if answer.status == 200:
            answers.append(answer.json["marks"][0]["probabilities"])

    def hostile(body: bytes) -> Callable[[], None]:
        query = f"?mode={rng.choice(['auto', 'digit', 'line'])}&preview={rng.choice(['true', 'false'])}"
        return lambda: statuses.append(client.predict(body, query).status)

    post = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\n".encode()
    malformed = [
        *(b"", b"\x00" * 1000, b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"POST /predict HTTP/1.1\r\n\r\n"),
        *(
            post + b"Content-Length: " + length + b"\r\n\r\nxx"
            for length in (b"-1", b"1e9", b"99999999999", b"2, 3", b"")
        ),
        *(post + b"Transfer-Encoding: chunked\r\n\r\n" + rest for rest in (b"zz\r\n", b"-5\r\n", b"ffffffffffff\r\nx")),
        post + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /etc/passwd HTTP/1.1\r\n\r\n",
        post + b"X: " + b"y" * 200_000 + b"\r\n\r\n",
        b"GET /../../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET /%2e%2e/%2e%2e/pyproject.toml HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    ]
    said: list[bytes] = []
    jobs: list[Callable[[], None]] = [
        *[good] * GOOD,
        *(hostile(mutated(picture, rng)) for _ in range(MUTATED)),
        *(hostile(body) for body in [bytes(demo.MOST_BYTES + 1)] * 8),
        *(hostile(huge(mode)) for mode in ("RGBA", "P", "LA", "RGB", "L")),
        *(hostile(encoded(Image.fromarray(np.zeros((1, 1), np.uint8)))) for _ in range(8)),
        *[lambda content=content: said.append(raw(client, content)) for content in malformed * 4],
    ]
    rng.shuffle(jobs)
    with ThreadPoolExecutor(GOOD) as pool:
        list(pool.map(lambda job: job(), jobs))

    right = sum(answer == pytest.approx(expected, abs=1e-5) for answer in answers)
    grown = memory_mb(process) - before
    print(f"\nseed {SEED}: {len(jobs)} requests, the memory grew by {grown:.0f} MB at most")
    record_property(f"{RELIABILITY}good requests answered right while the page was attacked", (right, GOOD))
    record_property(
        f"{RELIABILITY}requests to the page answered as an error of its own", (statuses.count(500), len(jobs))
    )
    assert right == GOOD
    assert set(statuses) <= {200, 413, 422}
    assert not any(line.startswith(b"HTTP/1.1 500") or b"root:" in line for line in said)
    assert grown < MOST_MEGABYTES
    assert process.poll() is None
