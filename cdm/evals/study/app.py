"""The web page of a study, and what it may not tell: which picture is real.

A picture is addressed by the token of its trial and the side it is on, and sent as H x W x 3 bytes of raw RGB: no name,
no length, no header, no metadata and no time of decoding differs between a real picture and a method's. Nothing may be
cached. The page holds the server's state and none of its own: it asks for the next trial, and is given the same one
until that is answered, in whatever tab and after whatever reload.
"""

import importlib.resources
import json
import math
import re
import secrets
import signal
import socket
import string
import sys
from html import escape

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
                               "img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
CODE = re.compile(r"[A-Za-z0-9_-]{16}")  # of a rater
ANSWER_SECONDS = 3  # a guess, for the length that the first page announces


def _asset(name):
    return (importlib.resources.files("cdm.evals.study") / "pages" / name).read_text(encoding="utf-8")


def _template(name):
    return string.Template(_asset(name))


async def _answer(request):
    """The arguments of Store.answer in the body of a request; 400 if they are not."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > 1000:
            raise HTTPException(413)
    try:
        said = json.loads(body)
        token, side, means, scale = said["token"], said["side"], said["means"], said["scale"]
        times = [float(said[name]) for name in ("reaction_ms", "viewed_ms")]
        good = (isinstance(token, str) and side in ("left", "right") and means in ("key", "mouse", "touch", "pen")
                and type(scale) is int and 1 <= scale <= 1000 and all(math.isfinite(t) and t >= 0 for t in times))
    except (ValueError, TypeError, KeyError) as e:
        raise HTTPException(400) from e
    if not good:
        raise HTTPException(400)
    return token, side, *times, scale, means


class _Headers:
    """Sends HEADERS with every response."""

    def __init__(self, app):
        self._app = app
        self._headers = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]

    async def __call__(self, scope, receive, send):
        async def with_headers(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._headers]
            await send(message)

        await self._app(scope, receive, with_headers)


def make_app(store, contact=None):
    """The ASGI application of a Store; `contact` is whom raters may ask."""
    protocol, pixels = store.protocol, store.pixels()
    height, width = protocol["size"]
    task, of = protocol["task"], protocol["per_rater"]
    facts = {"seconds": protocol["view_seconds"], "height": height, "width": width, "of": of}
    fixed = {"question": escape(protocol["question"]), "of": of, "seconds": f"{protocol['view_seconds']:g}"}
    begin_page, trial_page = _template("begin.html"), _template("trial.html")
    done_page, done_css, done_js = _template("done.html"), _asset("study.css"), _asset("study.js")
    task_text = _asset(f"task_{task}.html")
    middle = _asset("middle.html") if task == 1 else ""

    async def first(request):
        minutes = math.ceil(of * (protocol["view_seconds"] + ANSWER_SECONDS) / 60)
        return HTMLResponse(begin_page.substitute(
            fixed, task=string.Template(task_text).substitute(fixed), code=secrets.token_urlsafe(12),
            minutes=f"{minutes} minute{'s' * (minutes > 1)}",
            contact=f"<p>Questions: {escape(contact)}</p>" if contact else ""))

    async def begin(request):
        code = request.path_params["code"]
        if not CODE.fullmatch(code):
            raise HTTPException(404)
        store.begin(code)
        return RedirectResponse(f"/r/{code}", 303)

    def known(request):
        code = request.path_params["code"]
        if not store.knows(code):
            raise HTTPException(404)
        return code

    async def rater(request):
        code = known(request)
        if store.finished(code):
            return HTMLResponse(done_page.substitute(fixed, code=code))
        return HTMLResponse(trial_page.substitute(fixed, middle=middle, facts=escape(json.dumps(facts))))

    def state(code):
        done, token = store.next(code)
        return JSONResponse({"done": done, "token": token})

    async def following(request):
        return state(known(request))

    async def answer(request):
        code = known(request)
        if not store.answer(code, *await _answer(request)):
            raise HTTPException(404)
        return state(code)

    async def picture(request):
        pair = store.pair(request.path_params["token"])
        version = pair and pair[1].get(request.path_params["side"])
        if version is None:
            raise HTTPException(404)
        return Response(pixels[pair[0], version].tobytes(), media_type="application/octet-stream")

    async def css(request):
        return Response(done_css, media_type="text/css")

    async def js(request):
        return Response(done_js, media_type="text/javascript")

    return _Headers(Starlette(routes=[
        Route("/", first), Route("/begin/{code}", begin, methods=["POST"]), Route("/r/{code}", rater),
        Route("/r/{code}/next", following, methods=["POST"]), Route("/r/{code}/answer", answer, methods=["POST"]),
        Route("/picture/{token}/{side}", picture), Route("/study.css", css), Route("/study.js", js)]))


def serve(store, host, port, contact=None):
    """Serve a Store until SIGINT or SIGTERM; port 0 is any that is free."""
    with socket.create_server((host, port)) as listening:
        app = make_app(store, contact)
        print(f"task {store.protocol['task']}, {len(store.protocol['images'])} pictures, methods: "
              f"{', '.join(store.protocol['methods'])}; http://{host}:{listening.getsockname()[1]}/", flush=True)
        # What uvicorn raises again when it has ended: every answer is on the disk by then.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
        uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listening])
