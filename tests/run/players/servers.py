"""A completions server in this process, which grades by whatever function it is given."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np

# From ids to the log-probabilities of each next one, [n, V]: row t follows id t.
Grade = Callable[[Sequence[int]], np.ndarray]


class Server(http.server.ThreadingHTTPServer):
    """Answers as both kinds of servers do; `broken` turns what it says into something else.

    The next `failing` requests are answered with `status`.
    """

    def __init__(self, grade: Grade, encode: Callable[[str], list[int]]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.grade, self.encode, self.alone = grade, encode, threading.Lock()
        self.models, self.broken = ["tiny"], lambda answer: answer
        self.failing, self.status, self.asked, self.keys = 0, 503, [], []
        self.at_once = self.most = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def choice(self, index: int, prompt, body: dict) -> dict:
        """What is said of one prompt, with a token drawn after it."""
        ids = self.encode(prompt) if isinstance(prompt, str) else prompt
        with self.alone:
            rows = np.asarray(self.grade(ids), float)
        own = [None, *(float(rows[t, token]) for t, token in enumerate(ids[1:]))]
        count = body.get("logprobs") or body.get("prompt_logprobs")
        top = [
            None,
            *({str(i): float(row[i]) for i in np.argsort(-row)[:count]} for row in rows[:-1]),
        ]
        if body.get("echo"):
            drawn = [*own, -0.5]
            said = {"tokens": ["?"] * len(drawn), "token_logprobs": drawn}
            return {"index": index, "logprobs": said | {"top_logprobs": [*top, {"7": -0.5}]}}
        named = [
            None if each is None else {
                key: {"logprob": value, "rank": 1, "decoded_token": "?"}
                for key, value in (each | {str(token): logp}).items()
            }
            for each, token, logp in zip(top, ids, own)
        ]  # fmt: skip
        return {"index": index, "text": "?", "prompt_logprobs": named}


class Handler(http.server.BaseHTTPRequestHandler):
    """The two paths that are asked for."""

    server: Server

    def log_message(self, *said: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        self.answer({"data": [{"id": name} for name in self.server.models]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.alone:
            server.asked.append(body)
            server.keys.append(self.headers.get("Authorization"))
            server.at_once += 1
            server.most = max(server.most, server.at_once)
            failing, server.failing = server.failing, max(server.failing - 1, 0)
        try:
            if failing:
                self.send_error(server.status)
                return
            choices = [server.choice(*each, body) for each in enumerate(body["prompt"])]
            answer = {"model": body["model"], "choices": choices[::-1]}  # in whatever order
            self.answer(server.broken(answer))
        finally:
            with server.alone:
                server.at_once -= 1

    def answer(self, content: dict) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextlib.contextmanager
def serving(grade: Grade, encode: Callable[[str], list[int]]) -> Iterator[Server]:
    """A server that is there as long as the block."""
    server = Server(grade, encode)
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    )
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
