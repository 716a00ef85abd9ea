"""A teacher behind a server: the log-probabilities of ids that it is sent, over HTTP.

Two ways to ask are known. `echo`: an OpenAI-style completions server that repeats the prompt with
its log-probabilities. `prompt_logprobs`: vLLM's, which names them by id. Both are of the raw
distribution, at temperature 1 whatever was asked for. Ids are sent and never text, but to see
whether the server's own tokenizer has the same.

What a server answered is kept on the disk by what was asked, so that a run that is started again
goes on with the very same numbers. Nothing beside the standard library is needed.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import http.client
import json
import math
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opd import disk
from opd.fields import setting

APIS = ("echo", "prompt_logprobs")
BUSY = (408, 409, 425, 429)  # statuses that pass; so do those from 500 on
PROBE = 4  # log-probabilities of a position that the self-test adds up
CLOSE = 1e-3  # nats that two answers on the same ids may be apart
FILE = "served.jsonl"


class Gone(RuntimeError):
    """A server that stopped to answer, or answers something else: the run is saved and ends."""


@dataclasses.dataclass(frozen=True)
class ServedConfig:
    """Where a served teacher is, and how it is asked."""

    url: str | None = None  # http://HOST:PORT/v1; None: the teacher isn't served
    name: str | None = None  # the model's, as the server lists it; None: the only one there
    key: str = "OPENAI_API_KEY"  # the environment variable that has the key, if there is one
    api: str = setting("prompt_logprobs", choices=APIS)
    batch: int = setting(8, at_least=1)  # sequences of a request
    concurrent: int = setting(4, at_least=1)  # requests at a time, at most
    retries: int = setting(6, at_least=0)  # of a request, each after twice the wait
    wait: float = setting(1.0, at_least=0)  # seconds before the first of them
    timeout: float = setting(120.0, above=0)  # seconds of a request

    def check(self, path: str) -> None:
        """Refuses what is no address.

        Raises:
            ValueError: one line.
        """
        if self.url is not None and not self.url.startswith(("http://", "https://")):
            raise ValueError(f"{path}.url = {self.url!r}: allowed is http://HOST:PORT/v1")
        if self.url is None and self.name is not None:
            raise ValueError(f"{path}.name = {self.name!r}: needs {path}.url")


class Server:
    """A server's model, asked for log-probabilities.

    `model` is the name that the server lists. `seconds` and `requests` add up what asking took.
    """

    def __init__(self, config: ServedConfig, model: str = ""):
        self.config, self.model = config, model
        self.seconds, self.requests = 0.0, 0
        self._kept: dict[str, list[float]] = {}
        self._path: Path | None = None

    def keep(self, folder: Path) -> None:
        """Keeps answers in a folder, and takes those that are there."""
        self._path = folder / FILE
        disk.JsonlWriter(self._path).close()  # mends a line that a kill has torn
        if self._path.exists():
            self._kept = {line["asked"]: line["logp"] for line in disk.read_jsonl(self._path)}

    def logp(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probabilities in nats of every id but the first, given those before it.

        Raises:
            Gone: the server doesn't answer, or something else than it should.
        """
        keys = [self._key(ids) for ids in sequences]
        new = {key: list(ids) for key, ids in zip(keys, sequences) if key not in self._kept}
        asked = list(new.items())
        size = self.config.batch
        parts = [asked[at : at + size] for at in range(0, len(asked), size)]
        began = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(self.config.concurrent) as pool:
            answers = pool.map(lambda part: self._scores([ids for _, ids in part]), parts)
            for part, found in zip(parts, answers):
                self._remember({key: logp for (key, _), logp in zip(part, found, strict=True)})
        self.seconds += time.perf_counter() - began
        self.requests += len(parts)
        return [self._kept[key] for key in keys]

    def _remember(self, answers: dict[str, list[float]]) -> None:
        self._kept |= answers
        if self._path is not None:
            with disk.JsonlWriter(self._path) as file:
                for key, logp in answers.items():
                    file.write({"asked": key, "logp": logp})

    def _key(self, ids: Sequence[int]) -> str:
        """What an answer is known by: the model, the way it was asked, and the ids."""
        asked = json.dumps([self.model, self.config.api, list(map(int, ids))])
        return hashlib.sha256(asked.encode()).hexdigest()

    # --- one request ---------------------------------------------------------------------------

    def _scores(self, prompts: Sequence[Any]) -> list[list[float]]:
        """Log-probabilities of prompts, each ids; or the one text that the self-test has."""
        choices = self._completions(prompts, 1)
        return [self._own(choice, ids) for choice, ids in zip(choices, prompts, strict=True)]

    def _completions(self, prompts: Sequence[Any], top: int) -> list[dict[str, Any]]:
        asked = {"model": self.model, "prompt": list(prompts), "max_tokens": 1, "temperature": 1.0}
        if self.config.api == "echo":
            asked |= {"echo": True, "logprobs": top}
        else:
            asked |= {"prompt_logprobs": top}
            if isinstance(prompts[0], str):
                asked |= {"add_special_tokens": False}
        answer = self.ask("completions", asked)
        choices = answer.get("choices") if isinstance(answer, dict) else None
        if not isinstance(choices, list) or len(choices) != len(prompts):
            raise Gone(f"{self.config.url}: {len(prompts)} prompts were sent, and another number "
                       "of choices came back")  # fmt: skip
        if answer.get("model") not in (None, self.model):
            raise Gone(
                f"{self.config.url}: answers as {answer['model']!r}, asked was {self.model!r}"
            )
        return sorted(choices, key=lambda choice: choice.get("index", 0))

    def _positions(self, choice: dict[str, Any]) -> list[Any]:
        """What a choice says of each position of the prompt."""
        try:
            if self.config.api == "echo":
                said = choice["logprobs"]
                return list(zip(said["token_logprobs"], said.get("top_logprobs") or said["tokens"]))
            return list(choice["prompt_logprobs"])
        except (KeyError, TypeError):
            raise Gone(
                f"{self.config.url}: says no log-probabilities of the prompt (served.api = "
                f"{self.config.api!r}); another server, or the other of {', '.join(APIS)}"
            ) from None

    def _own(self, choice: dict[str, Any], ids: Sequence[int]) -> list[float]:
        """Of every id but the first; what the server drew after them is left out."""
        said = self._positions(choice)
        try:
            if self.config.api == "echo":
                found = [own for own, _ in said[1 : len(ids)]]
            else:
                found = [
                    each[str(token)]["logprob"]
                    for each, token in zip(said[1:], ids[1:], strict=True)
                ]
        except (KeyError, ValueError):
            raise Gone(
                f"{self.config.url}: has no log-probability of an id that was sent"
            ) from None
        if len(found) != len(ids) - 1 or not all(isinstance(x, (int, float)) for x in found):
            raise Gone(
                f"{self.config.url}: says {len(found)} log-probabilities of {len(ids)} ids: "
                "allowed is one for each but the first"
            )
        if not all(math.isfinite(x) and x <= CLOSE for x in found):
            raise Gone(f"{self.config.url}: a log-probability is {max(found, key=abs)}")
        return [float(x) for x in found]

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON that a path answers, tried again where the server is busy or gone for a while.

        Raises:
            Gone: it stayed so, or refuses.
        """
        wait, tried = self.config.wait, 0
        while True:
            try:
                return self._once(path, body)
            except urllib.error.HTTPError as error:
                said = error.read().decode("utf-8", "replace")[:200]
                why = f"{error.code} {error.reason}: {' '.join(said.split())}"
                if error.code not in BUSY and error.code < 500:
                    raise Gone(f"{self.config.url}/{path}: {why}") from None
            except (OSError, http.client.HTTPException, ValueError) as error:
                why = str(getattr(error, "reason", error)) or type(error).__name__
            if tried == self.config.retries:
                raise Gone(
                    f"{self.config.url}/{path}: no answer in {tried + 1} tries ({why})"
                ) from None
            time.sleep(wait)
            wait, tried = 2 * wait, tried + 1

    def _once(self, path: str, body: dict[str, Any] | None) -> Any:
        headers = {"Content-Type": "application/json"}
        if os.environ.get(self.config.key):
            headers["Authorization"] = f"Bearer {os.environ[self.config.key]}"
        data = None if body is None else json.dumps(body).encode()
        address = f"{(self.config.url or '').rstrip('/')}/{path}"
        request = urllib.request.Request(address, data, headers)
        with urllib.request.urlopen(request, timeout=self.config.timeout) as answer:
            return json.loads(answer.read())


# --- looked at -------------------------------------------------------------------------------


def look(config: ServedConfig, text: str, ids: Sequence[int]) -> Server:
    """The server, found to be there and to grade ids as it should.

    Args:
        config: where it is.
        text: a text that is tokenized as it stands.
        ids: ours of that text.

    Raises:
        ValueError: one line: no server there, no such model, other ids, or answers that differ
            from one time to the next, or are no log-probabilities.
    """
    server = Server(dataclasses.replace(config, retries=min(config.retries, 1)))
    try:
        listed = server.ask("models")
        names = [each["id"] for each in listed["data"]]
        if config.name is None and len(names) != 1 or config.name not in (None, *names):
            given = "None" if config.name is None else repr(config.name)
            raise ValueError(
                f"config.teacher.served.name = {given}: {config.url} has {', '.join(names)}"
            )
        server.model = config.name or names[0]
        first, second = server._scores([list(ids)])[0], server._scores([list(ids)])[0]
        _agree(config, first, second, "scores the same ids otherwise the second time")
        (choice,) = server._completions([text], 1)
        said = server._positions(choice)
        extra = len(said) - len(ids)
        if extra not in ((0, 1) if config.api == "echo" else (0,)):
            raise ValueError(
                f"{config.url}: reads {text!r:.40} as {len(said)} ids, and here it has {len(ids)}: "
                "another tokenizer, or one that adds to a text"
            )
        _agree(
            config, first, server._own(choice, ids), f"reads {text!r:.40} as other ids than ours"
        )
        _mass(server, ids)
    except Gone as error:
        raise ValueError(f"config.teacher.served: {error}") from None
    except (KeyError, TypeError):
        raise ValueError(f"config.teacher.served: {config.url}/models lists no models") from None
    server.config = config
    return server


def _agree(config: ServedConfig, one: Sequence[float], other: Sequence[float], what: str) -> None:
    apart = max((abs(a - b) for a, b in zip(one, other, strict=True)), default=0.0)
    if apart > CLOSE:
        raise ValueError(f"{config.url}: {what}: {apart:.3g} nats apart, allowed are {CLOSE:g}")


def _mass(server: Server, ids: Sequence[int]) -> None:
    """Refuses likeliest tokens that are more than all there is: no log-probabilities at all."""
    (choice,) = server._completions([list(ids)], PROBE)
    for said in server._positions(choice)[1 : len(ids)]:
        top = said[1] if server.config.api == "echo" else said
        if isinstance(top, dict):
            values = [one["logprob"] if isinstance(one, dict) else one for one in top.values()]
            mass = math.fsum(map(math.exp, sorted(values, reverse=True)[:PROBE]))
            if mass > 1 + CLOSE:
                raise ValueError(
                    f"{server.config.url}: the likeliest {PROBE} tokens have {mass:.4g} of the "
                    "probability, allowed is 1 at most"
                )
