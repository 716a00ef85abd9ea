"""Answers compared as mathematics (math-verify), in a process of its own.

What a model writes may take forever to evaluate, 9^{9^{9^9}} for one, and no timeout within Python
ends that. The process is killed where it is late, and the next comparison starts another.
This file is run by its path: it imports nothing of ours.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import select
import subprocess
import sys
import threading

# Chosen by hand, not tuned: what takes longer is no answer, and no start.
SECONDS = 5.0  # of one comparison
STARTING = 120.0  # of its imports


class Process:
    """The comparing process, started when it is first needed."""

    def __init__(self) -> None:
        self._running: subprocess.Popen[bytes] | None = None
        self._alone = threading.Lock()
        atexit.register(self.close)

    def equal(self, completion: str, answer: str, seconds: float = SECONDS) -> bool:
        """Whether a completion's answer is the answer; what isn't told in time is not.

        Raises:
            ValueError: math-verify isn't installed.
        """
        if importlib.util.find_spec("math_verify") is None:
            raise ValueError("data.verifier = 'math' needs the extra: pip install opd[math]")
        with self._alone:
            if self._running is None:
                self._running = subprocess.Popen(
                    [sys.executable, "-P", __file__],  # -P: files beside this one are no modules
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                )
                if not self._answer(STARTING):
                    self.close()
                    raise RuntimeError("math-verify did not start")
            self._running.stdin.write(json.dumps([completion, answer]).encode() + b"\n")
            self._running.stdin.flush()
            return self._answer(seconds)

    def _answer(self, seconds: float) -> bool:
        """The process's next line; false where it is late or gone, which ends it."""
        ready, *_ = select.select([self._running.stdout], [], [], seconds)
        line = self._running.stdout.readline() if ready else b""
        if not line:
            self.close()
        return line == b"true\n"

    def close(self) -> None:
        """Ends the process, if there is one."""
        if self._running is not None:
            self._running.kill()
            self._running.communicate()
            self._running = None


def serve() -> None:
    """Answers comparisons, a line each: [completion, answer] -> true or false."""
    import math_verify

    out, sys.stdout = sys.stdout, sys.stderr
    print("true", file=out, flush=True)
    for line in sys.stdin:
        completion, answer = json.loads(line)
        wanted, found = (
            math_verify.parse(text, parsing_timeout=None) for text in (f"${answer}$", completion)
        )
        same = math_verify.verify(wanted, found, timeout_seconds=None)
        print(json.dumps(bool(same)), file=out, flush=True)


if __name__ == "__main__":
    serve()
