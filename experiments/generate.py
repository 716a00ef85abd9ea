"""Print a model's completion of a prompt.

python -m experiments.generate --path=DIR --prompt=TEXT [--system=TEXT] [--length=N]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from opd.run.settings import command

if TYPE_CHECKING:
    from opd.data.hub_tokenizer import HubTokenizer
    from opd.run.players import hub

_PATH = flags.DEFINE_string("path", None, "a Hugging Face folder")
_PROMPT = flags.DEFINE_string("prompt", None, "what the model goes on with")
_SYSTEM = flags.DEFINE_string("system", None, "the chat's system message")
_ARGUMENTS = flags.DEFINE_string("arguments", None, "the chat template's, as a JSON object")
_DATE = flags.DEFINE_string("date", None, "YYYY-MM-DD, for a chat template that asks; today")
_CHAT = flags.DEFINE_bool("chat", None, "write the prompt as a chat; where there is a template")
_LENGTH = flags.DEFINE_integer("length", 256, "tokens at most", lower_bound=1)
_TEMPERATURE = flags.DEFINE_float("temperature", 1.0, "0 is the arg max", lower_bound=0.0)
_TOP_K = flags.DEFINE_integer("top_k", None, "of the likeliest tokens", lower_bound=1)
_TOP_P = flags.DEFINE_float("top_p", None, "of the likeliest mass", 0.0, 1.0)
_SEED = flags.DEFINE_integer("seed", 0, "of the draws", lower_bound=0)
_DTYPE = flags.DEFINE_string("dtype", None, "bfloat16 or float32; the checkpoint's")


def prepare(argv: list[str] | None = None) -> Callable[[], None]:
    """Parses and checks; hands back what is to be run.

    Raises:
        ValueError: a user's mistake; nothing has been compiled.
    """
    argv = sys.argv if argv is None else argv
    command.helped(argv, __doc__)
    from opd.data import hub_tokenizer, tokenizers
    from opd.data.chat import ChatConfig
    from opd.engine import backend
    from opd.run.players import models
    from opd.run.settings import launch

    launch.parse(argv)
    for name, value in (("path", _PATH.value), ("prompt", _PROMPT.value)):
        if not value:
            raise ValueError(f"--{name} is missing")
    path = Path(_PATH.value)
    chat = ChatConfig(_CHAT.value, _SYSTEM.value, _ARGUMENTS.value, _DATE.value)
    checkpoint, tokenizer = models.look(path, _DTYPE.value, chat)
    if tokenizer is None:
        raise ValueError(f"{path}: has no {hub_tokenizer.FILE}: nothing can be read or written")
    tokenizer = tokenizer.within(checkpoint.config.vocab)
    tokenizer.refuse_lost(_PROMPT.value)
    ids = tokenizer.encode_prompt(_PROMPT.value)
    tokenizers.refuse_rowless(tokenizer, ids, checkpoint.config.vocab)
    width = len(ids)
    if width + _LENGTH.value > checkpoint.config.max_length:
        raise ValueError(
            f"a prompt of {width} tokens and --length={_LENGTH.value}: the model reads "
            f"{checkpoint.config.max_length}"
        )
    backend.check()
    return lambda: job(checkpoint, tokenizer)


def job(checkpoint: hub.Folder, tokenizer: HubTokenizer) -> None:
    """The completion, on standard output."""
    from opd.run.players import models
    from opd.run.settings import launch

    launch.keep_compiled()
    policy = models.loaded(checkpoint, tokenizer)
    how = _SEED.value, _TEMPERATURE.value, _TOP_K.value, _TOP_P.value
    (text,) = models.complete(policy, [_PROMPT.value], _LENGTH.value, *how)
    print(text)


if __name__ == "__main__":
    command.main(prepare)
