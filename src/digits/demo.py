"""A page to draw on:  python -m digits.demo ckpt_path=logs/train/runs/<run>/checkpoints/best.ckpt"""

import asyncio
import errno
import logging
import mimetypes
import socket
import threading
import webbrowser
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import SpooledTemporaryFile
from time import perf_counter
from typing import IO, TYPE_CHECKING, Annotated, Any, cast, get_args
from urllib.parse import urlsplit

from omegaconf import DictConfig
from pydantic import Field
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from digits.command import command
from digits.errors import UserError
from digits.pictures.encode import data_url
from digits.validation import FilePath, Trust, read_settings
from digits.views import TtaSettings

if TYPE_CHECKING:
    import numpy as np
    import uvicorn

    from digits.pictures.reader import ImageClassifier, Mode, Prediction

PAGE = Path(__file__).parent / "page"
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
MOST_BYTES = 20 * 2**20  # of a picture's file
PREVIEW_PIXELS = 1000  # of the longer side of a picture that the browser cannot show by itself
BYTES_IN_MEMORY = 2**20  # of a file; a larger one waits on the disk, so that many at once do not fill the memory
HEAD_SECONDS = 10  # within which, or twice that, a connection has to send the head of its next request
UPLOAD_SECONDS = 60
PICTURES_AT_ONCE = 2  # a large photo takes hundreds of MB while it is read
MOST_CONNECTIONS = 256
FOR, AGAINST = (200, 55, 20), (35, 95, 175)  # red and blue: colours of what speaks for a class, and against it
HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " img-src 'self' data: blob:; media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self)",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}

log = logging.getLogger(__name__)


class DemoSettings(TtaSettings):
    """The keys of configs/demo.yaml."""

    ckpt_path: FilePath | None
    host: str
    port: Annotated[int, Field(ge=0, le=65535)]
    open_browser: bool
    trust: Trust
    log_dir: FilePath


@command("demo", keeps_run=False)
def main(cfg: DictConfig) -> None:
    """Serves the page until Ctrl-C."""
    settings = read_settings(DemoSettings, cfg)
    with listen(settings.host, settings.port) as listener:
        from digits.pictures.reader import load_classifier
        from digits.runs.run import newest_checkpoint

        path = settings.ckpt_path or newest_checkpoint(settings.log_dir)
        log.info("model: %s%s", path, "" if settings.ckpt_path else f", the newest under {settings.log_dir}")
        classifier = load_classifier(path, trust=settings.trust, tta=settings.tta, tta_below=settings.tta_below)
        address, port = listener.getsockname()[:2]
        # With DNS rebinding, another site's name leads here: the page must not open to that site.
        local = address in ("127.0.0.1", "::1")
        app = application(classifier, path.name, LOOPBACK if local else ["*"])
        everywhere = address in ("0.0.0.0", "::")
        name = "127.0.0.1" if everywhere else f"[{address}]" if ":" in address else address
        url = f"http://{name}:{port}"
        log.info("open %s%s (Ctrl-C ends)", url, ", or any other address of this machine" if everywhere else "")
        if settings.open_browser:
            threading.Thread(
                target=webbrowser.open, args=[url], daemon=True
            ).start()  # some browsers block until they have a window
        server(app).run([listener])


def listen(host: str, port: int) -> socket.socket:
    """Opens the port, before the seconds that a model takes to load.

    Raises:
        UserError: if that cannot be; where another program has the port, it names one that is free.
    """
    try:
        [(family, *_), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        listener = socket.create_server((host, port), family=family, backlog=MOST_CONNECTIONS)
    except OSError as error:
        reason = str(error.strerror)
        if error.errno == errno.EADDRINUSE:
            with listen(host, 0) as free:
                reason = f"another program has it; port={free.getsockname()[1]} is free"
        raise UserError(f"host={host} port={port}: {reason}") from error
    # Inherited by each connection. Without it an answer's body waits 40 ms for the acknowledgement of its head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def server(app: Starlette) -> "uvicorn.Server":
    """A server that closes connections which send no request; uvicorn alone would wait for the head of one for ever."""
    import h11
    import uvicorn

    silent: dict[Any, Any] = {}  # connections that wait for the head of a request, with the request before it

    async def close_silent() -> None:
        nonlocal silent
        connections: set[Any] = set(made.server_state.connections)
        before, silent = silent, {one: one.cycle for one in connections if one.conn.their_state is h11.IDLE}
        for connection, cycle in silent.items():
            if connection in before and before[connection] is cycle:
                connection.transport.close()

    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        log_level="warning",
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=1,
        callback_notify=close_silent,
        timeout_notify=HEAD_SECONDS,
    )
    made = uvicorn.Server(config)
    return made


def application(classifier: "ImageClassifier", file: str, hosts: list[str] | tuple[str, ...] = LOOPBACK) -> Starlette:
    """The page, `GET /model` (what it should know of the model), `POST /predict` and `POST /explain`.

    The body of `POST /predict` is the content of an image file; `?mode=` is `auto` (the default), `digit` or `line`.
    The answer is a JSON object, also where nothing is found: `text`, `reason` and `note` as of `Reading`; `width` and
    `height` of the upright picture in which the boxes are; the `milliseconds` that it took; and `marks`, each with
    `label`, `probability`, `probabilities` in the order of the classes, `image` (what the network saw, as a data URL),
    `box` (left, top, right, bottom, in pixels), `known`, `rejected`, `separator` and `line`. With `?preview=true` there
    is the `preview`, a JPEG of the picture as a data URL, for browsers that do not know its format.
    The body of `POST /explain?label=` is a mark's `image`, and the label that of a class. The answer's `image` shows
    which of its pixels speak for that class and which against it, as a data URL. It is computed for who asks, apart
    from the answers; without gradients, as of an ONNX file, there is none.
    Whatever is wrong with a request is said in `message`.

    Args:
        classifier: reads the pictures.
        file: the model's name.
        hosts: the names under which the page may be asked for; `*` is any.
    """
    from digits.pictures.reader import Mode

    modes = get_args(Mode)
    slots, slot_of_explanations = asyncio.Semaphore(PICTURES_AT_ONCE), asyncio.Semaphore(1)
    model = {
        "file": file,
        "dataset": classifier.facts.dataset,
        "class_names": classifier.facts.class_names,
        "noun": classifier.facts.noun,
        "image_size": classifier.facts.image_size,
        "most_bytes": MOST_BYTES,
        "explains": classifier.model is not None,
    }

    async def predict(request: Request) -> Response:
        mode, preview = request.query_params.get("mode", "auto"), request.query_params.get("preview") == "true"
        if mode not in modes:
            return refused(422, f"mode={mode}: there are {', '.join(modes)}")
        return await answered(request, slots, lambda body: read(classifier, body, cast("Mode", mode), preview))

    async def why(request: Request) -> Response:
        label = request.query_params.get("label", "")
        if label not in classifier.facts.class_names:
            return refused(422, f"label={label}: no class of {classifier.facts.dataset}")
        return await answered(request, slot_of_explanations, lambda body: explain(classifier, body, label))

    async def complain(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # Starlette's types know one kind of handler for all
        return refused(error.status_code, error.detail, error.headers)

    routes = [
        *page_files(),
        Route("/model", JSONResponse(model), methods=["GET"]),
        Route("/predict", predict, methods=["POST"]),
        *([Route("/explain", why, methods=["POST"])] if classifier.model is not None else []),
    ]
    middleware = [Middleware(with_headers), Middleware(TrustedHostMiddleware, hosts, www_redirect=False)]
    return Starlette(routes=routes, middleware=middleware, exception_handlers={HTTPException: complain})


def page_files() -> list[Route]:
    """The files of the page, each at its name."""
    return [
        Route(
            "/" if path.name == "index.html" else f"/{path.name}",
            Response(path.read_bytes(), media_type=mimetypes.guess_type(path.name)[0]),
            methods=["GET"],
        )
        for path in sorted(PAGE.iterdir())
    ]


def refused(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """Says what is wrong with a request."""
    return JSONResponse({"message": message}, status, headers)


async def answered(request: Request, slots: asyncio.Semaphore, answer: Callable[[IO[bytes]], Response]) -> Response:
    """Hands a request's body to `answer`, in a thread, once there is a slot; none of another site's."""
    origin = request.headers.get("origin")
    if origin and urlsplit(origin).netloc != request.headers.get("host"):
        return refused(403, f"this page does not answer other sites ({origin})")
    try:
        with SpooledTemporaryFile(BYTES_IN_MEMORY) as body:
            if refusal := await receive(request, body):
                return refusal
            async with slots:
                if await request.is_disconnected():  # while it waited
                    return Response(status_code=499)
                return await run_in_threadpool(answer, body)
    except ClientDisconnect:
        return Response(status_code=499)


async def receive(request: Request, body: IO[bytes]) -> Response | None:
    """Writes a request's body to a file; returns a refusal if it is too large or too slow.

    Raises:
        ClientDisconnect: if the client is gone.
    """
    announced = int(request.headers.get("content-length", 0))
    try:
        async with asyncio.timeout(UPLOAD_SECONDS):
            async for chunk in request.stream():
                body.write(chunk)
                if max(announced, body.tell()) > MOST_BYTES:
                    return refused(413, f"the picture has more than {MOST_BYTES // 2**20} MB, the most allowed")
    except TimeoutError:
        return refused(408, f"the picture did not arrive within {UPLOAD_SECONDS} seconds")
    return None


def read(classifier: "ImageClassifier", body: IO[bytes], mode: "Mode", preview: bool) -> Response:
    """Answers a request for what is in the picture in a file."""
    from digits.pictures.decode import read_picture

    start = perf_counter()
    body.seek(0)
    try:
        picture = read_picture(body.read())
        reading = classifier.read(picture, mode)
    except UserError as error:  # not handed on: its traceback would keep the picture in memory
        return refused(422, str(error))
    answer = {
        "text": reading.text,
        "reason": reading.reason,
        "note": reading.note,
        "width": picture.width,
        "height": picture.height,
        "milliseconds": 1000 * (perf_counter() - start),
        "marks": [describe(mark) for mark in reading.marks],
    }
    if preview:
        picture.thumbnail((PREVIEW_PIXELS, PREVIEW_PIXELS))
        answer["preview"] = data_url(picture, "JPEG")
    return JSONResponse(answer)


def explain(classifier: "ImageClassifier", body: IO[bytes], label: str) -> Response:
    """Answers a request for what speaks for a class in an image that the network saw."""
    import numpy as np
    from PIL import Image

    from digits.explain import attribution
    from digits.pictures.decode import read_picture

    facts = classifier.facts
    body.seek(0)
    try:
        picture = read_picture(body.read())
    except UserError as error:
        return refused(422, str(error))
    if picture.size != (facts.image_size, facts.image_size):
        return refused(
            422, f"an image of {facts.image_size}×{facts.image_size} pixels is needed, as the network saw it"
        )
    pixels = np.asarray(picture.convert("L" if facts.channels == 1 else "RGB"))
    image = pixels[None] if facts.channels == 1 else pixels.transpose(2, 0, 1)
    weights = attribution(classifier.model, np.array(image), facts.class_names.index(label))
    return JSONResponse({"image": data_url(Image.fromarray(coloured(image, weights)), "PNG")})


def coloured(image: "np.ndarray", weights: "np.ndarray") -> "np.ndarray":
    """An image (C, H, W) in [0, 255], faint, under the colours of what speaks for a class and against it.

    Args:
        image: what the network saw.
        weights: (H, W), above 0 for what speaks for the class.

    Returns:
        uint8 of shape (H, W, 3).
    """
    import numpy as np

    faint = np.repeat(245 - 0.3 * image.mean(axis=0)[..., None], 3, axis=2)
    strength = np.abs(weights) / max(float(np.abs(weights).max()), 1e-12)
    colours = np.where((weights > 0)[..., None], FOR, AGAINST)
    cover = np.sqrt(strength)[..., None]  # the square root shows the weak ones too
    return (faint * (1 - cover) + colours * cover).round().astype(np.uint8)


def describe(mark: "Prediction") -> dict[str, Any]:
    return {
        "label": mark.label,
        "probability": mark.probability,
        "probabilities": list(mark.probabilities.values()),
        "image": data_url(mark.picture, "PNG"),
        "box": mark.box,
        "known": mark.known,
        "rejected": mark.rejected,
        "separator": mark.separator,
        "line": mark.line,
    }


def with_headers(app: ASGIApp) -> ASGIApp:
    """Adds `HEADERS` to each answer."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await app(scope, receive, send_with_headers)

    return wrapped


if __name__ == "__main__":
    main()
