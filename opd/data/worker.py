"""What a model's text may make endless, in a process of its own: mathematics and patterns.

9^{9^{9^9}} may take forever to evaluate, (a+)+b to search for, and no timeout within Python ends
either. The process is killed where it is late, and the next request starts another.
This file is run by its path: it imports nothing of ours.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import select
import subprocess
import sys
import threading
from typing import Any

# Chosen by hand, not tuned: what takes longer is no answer, and no start.
SECONDS = 5.0  # of one request
STARTING = 120.0  # of its imports


class Worker:
    """A process that answers requests of one kind, a key of KINDS; started when first needed."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._running: subprocess.Popen[bytes] | None = None
        self._alone = threading.Lock()
        atexit.register(self.close)

    def ask(self, *request: str, seconds: float | None = None) -> Any:
        """The answer to a request of texts, within SECONDS where no others are said.

        Raises:
            TimeoutError: it is late, or the process died of it.
        """
        with self._alone:
            # One that was ended meanwhile, by whoever it was, is nothing to tell of a request.
            if self._running is None or self._running.poll() is not None:
                self._start()
            self._running.stdin.write(json.dumps(request).encode() + b"\n")
            self._running.stdin.flush()
            return self._answer(SECONDS if seconds is None else seconds)

    def _start(self) -> None:
        self.close()
        self._running = subprocess.Popen(
            [sys.executable, "-P", __file__, self._kind],  # -P: files beside this are no modules
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # sympy goes through sets of names: in one order, whichever process it is.
            env=os.environ | {"PYTHONHASHSEED": "0"},
        )
        try:
            self._answer(STARTING)
        except TimeoutError:
            raise RuntimeError(f"the process for {self._kind} did not start") from None

    def _answer(self, seconds: float) -> Any:
        """The process's next line; where it is late or gone, that ends it."""
        ready, *_ = select.select([self._running.stdout], [], [], seconds)
        line = self._running.stdout.readline() if ready else b""
        if not line:
            self.close()
            raise TimeoutError(f"no answer within {seconds:g} seconds")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process, if there is one."""
        if self._running is not None:
            self._running.kill()
            self._running.communicate()
            self._running = None


# --- within the process ------------------------------------------------------------------------


def _equal(completion: str, answer: str) -> bool:
    import math_verify

    wanted, said = (math_verify.parse(text, parsing_timeout=None) for text in (answer, completion))
    return bool(math_verify.verify(wanted, said, timeout_seconds=None))


def _last(pattern: str, text: str) -> str | None:
    matches = [match for match in re.finditer(pattern, text) if match[0]]
    if not matches:
        return None
    if not matches[-1].re.groups:
        return matches[-1][0]
    return next((group for group in matches[-1].groups() if group is not None), None)


# equal: (completion, answer) -> whether math-verify finds them equal, false where it fails.
# last: (pattern, text) -> the last match that isn't empty, or the first of its groups to take part.
KINDS = {"equal": _equal, "last": _last}


def serve(kind: str) -> None:
    """Answers requests, a line of JSON each."""
    answer, out = KINDS[kind], sys.stdout
    sys.stdout = sys.stderr  # what a library prints is no answer
    if kind == "equal":
        import math_verify  # noqa: F401  here, where it may take as long as a start
    print("null", file=out, flush=True)
    for line in sys.stdin:
        try:
            reply = answer(*json.loads(line))
        except Exception:  # what can't be evaluated equals nothing
            reply = None
        print(json.dumps(reply), file=out, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
