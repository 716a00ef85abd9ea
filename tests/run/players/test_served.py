"""A served teacher: what a server is asked, what it may answer, and a training by its word."""

import dataclasses
import json
import runpy
from pathlib import Path

import folders
import jax.numpy as jnp
import numpy as np
import pytest
import servers

from opd import disk
from opd.data import served
from opd.data.served import Gone, ServedConfig
from opd.engine import steps, vocab
from opd.run.comparing import compare
from opd.run.drawing import Player
from opd.run.settings import command
from opd.run.settings import config as configs
from opd.run.store import checkpoint
from opd.run.training import checks, train

ROOT = Path(__file__).parents[3]
VOCAB, TEXT = 11, "3+4="


def encode(text):
    return [ord(letter) % VOCAB for letter in text]


def grade(ids):
    """A language of its own: the next id depends on the last two, by a table."""
    table = np.random.default_rng(0).standard_normal((VOCAB, VOCAB, VOCAB))
    last = [0, *ids]
    logits = np.stack([table[last[t], last[t + 1]] for t in range(len(ids))])
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def wanted(ids):
    return [grade(ids)[t, token] for t, token in enumerate(ids[1:])]


@pytest.fixture
def server():
    with servers.serving(grade, encode) as found:
        yield found


def config(server, **changes):
    return ServedConfig(**{"url": server.url, "wait": 0.01, "retries": 3} | changes)


SEQUENCES = [[1, 2, 3], [4, 5], [1, 2, 3], [9, 8, 7, 6, 5, 4], [2, 2]]


@pytest.mark.parametrize("api", served.APIS)
def test_every_id_but_the_first_is_graded_after_those_before_it(api, server):
    found = served.look(config(server, api=api, batch=2), TEXT, encode(TEXT))
    assert found.model == "tiny"
    for ids, logp in zip(SEQUENCES, found.logp(SEQUENCES), strict=True):
        np.testing.assert_allclose(logp, wanted(ids), rtol=1e-12)
    asked = [body["prompt"] for body in server.asked[-2:]]
    assert sorted(map(len, asked)) == [2, 2], "four different sequences, two a request"
    assert all(body["temperature"] == 1 and body["model"] == "tiny" for body in server.asked)


def test_no_more_requests_are_under_way_than_allowed(server):
    slow, plain = [], server.grade

    def wait(ids):
        slow.append(ids)
        return plain(ids)

    server.grade = wait
    found = served.look(config(server, batch=1, concurrent=2), TEXT, encode(TEXT))
    server.most = 0
    found.logp([[n, n + 1] for n in range(9)])
    assert 1 <= server.most <= 2 and found.requests == 9 and found.seconds > 0


def test_answers_are_kept_and_asked_for_once(server, tmp_path):
    found = served.look(config(server), TEXT, encode(TEXT))
    found.keep(tmp_path)
    first = found.logp(SEQUENCES)
    count = len(server.asked)
    assert found.logp(SEQUENCES[::-1]) == first[::-1] and len(server.asked) == count
    with open(tmp_path / served.FILE, "a") as file:
        file.write('{"asked": "torn')
    again = served.Server(found.config, found.model)
    again.keep(tmp_path)
    assert again.logp(SEQUENCES) == first and len(server.asked) == count, "to the last bit"
    other = served.Server(found.config, "another")
    other.keep(tmp_path)
    other.logp(SEQUENCES[:1])
    assert len(server.asked) == count + 1, "another model's answers are others"


def test_a_server_that_is_busy_is_asked_again(server):
    found = served.look(config(server), TEXT, encode(TEXT))
    server.failing, server.status = 3, 429
    assert found.logp([[1, 2]]) == [wanted([1, 2])]
    server.failing = 4
    with pytest.raises(Gone, match=r"/v1/completions: no answer in 4 tries \(429"):
        found.logp([[1, 3]])
    server.failing, server.status, count = 1, 400, len(server.asked)
    with pytest.raises(Gone, match="400"):
        found.logp([[1, 3]])
    assert len(server.asked) == count + 1, "what it refuses it is not asked again"


def test_the_key_is_the_environment_s(server, monkeypatch):
    monkeypatch.setenv("MY_KEY", "s3cret")
    served.look(config(server, key="MY_KEY"), TEXT, encode(TEXT))
    assert set(server.keys) == {"Bearer s3cret"}


def other_ids(answer):
    for choice in answer["choices"]:
        choice["prompt_logprobs"][1:] = [{"10": {"logprob": -1.0}}] * (
            len(choice["prompt_logprobs"]) - 1
        )
    return answer


def every(change):
    """Whatever is said of a token, changed."""

    def broken(answer):
        for choice in answer["choices"]:
            for said in choice["prompt_logprobs"][1:]:
                for one in said.values():
                    one["logprob"] = change(one["logprob"])
        return answer

    return broken


def silent(answer):
    for choice in answer["choices"]:
        del choice["prompt_logprobs"]
    return answer


BROKEN = {
    "other ids": (other_ids, "has no log-probability of an id that was sent"),
    "nothing": (silent, "says no log-probabilities of the prompt (served.api = 'prompt_logprobs')"),
    "not the same twice": (every(lambda x: x - np.random.random()), "otherwise the second time"),
    "positive": (every(lambda x: x + 9), "a log-probability is"),
    "too much": (every(lambda x: x / 9), "of the probability, allowed is 1 at most"),
    "another model": (lambda a: a | {"model": "big"}, "answers as 'big', asked was 'tiny'"),
    "fewer": (lambda a: a | {"choices": []}, "1 prompts were sent, and another number"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_a_server_that_says_something_else_is_refused_in_a_line(what, server):
    server.broken, message = BROKEN[what]
    with pytest.raises(ValueError) as error:
        served.look(config(server), TEXT, encode(TEXT))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_server_that_reads_a_text_otherwise_is_refused(server):
    server.encode = lambda text: [0, *encode(text)]
    with pytest.raises(ValueError, match=r"reads '3\+4=' as 5 ids, and here it has 4"):
        served.look(config(server), TEXT, encode(TEXT))
    server.encode = lambda text: encode(text)[::-1]
    with pytest.raises(ValueError, match="as other ids than ours|no log-probability of an id"):
        served.look(config(server), TEXT, encode(TEXT))


def test_models_are_known_by_name(server):
    server.models = ["one", "two"]
    for name in (None, "three"):
        with pytest.raises(ValueError, match=f"name = {name!r}: http.* has one, two"):
            served.look(config(server, name=name), TEXT, encode(TEXT))
    assert served.look(config(server, name="two"), TEXT, encode(TEXT)).model == "two"


def test_a_server_that_is_not_there_is_refused():
    gone = ServedConfig(url="http://127.0.0.1:9/v1", wait=0.0)
    with pytest.raises(ValueError, match=r"teacher.served: http.*/v1/models: no answer in 2"):
        served.look(gone, TEXT, encode(TEXT))


# --- a training ----------------------------------------------------------------------------------


def debug(**changes):
    values = runpy.run_path(str(ROOT / "configs" / "debug.py"))["get_config"]().to_dict()
    return configs.build(folders.changed(values, **{"method__name": "opd_sampled"} | changes))


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A training by the teacher itself, and the folder of players."""
    folder = tmp_path_factory.mktemp("local")
    changes = {"models": str(folder / "models")}
    config = debug(**changes)
    learner = train.prepare(config, folder / "run", train.check(config, folder / "run"))
    return learner, changes


def longer(player):
    """The same player for sequences of whatever length a prompt has."""
    config = dataclasses.replace(player.model.config, max_length=64)
    return Player(dataclasses.replace(player.model, config=config), player.params)


@pytest.fixture
def tiny(local):
    """A server of that very teacher."""
    model, params = longer(local[0].teacher)

    def grade(ids):
        tokens = jnp.asarray([ids])
        hidden = model.hidden(params, tokens, jnp.ones(tokens.shape, bool))
        head = steps.head_of(model, params, hidden)
        return np.asarray(vocab.log_softmax(vocab.logits(head), 1.0)[0])

    with servers.serving(grade, local[0].world.task.tokenizer.encode) as found:
        yield found


def by_server(tiny, local, **changes):
    asked = {"teacher__served__url": tiny.url, "teacher__served__wait": 0.0}
    return debug(**local[1] | asked | {"teacher__served__retries": 1} | changes)


@pytest.mark.parametrize("prompt", [None, "{{ answer }}={{ prompt }}"])
def test_an_update_is_that_of_the_teacher_itself(prompt, tiny, local, tmp_path):
    """The same gradient to rounding, and what the server said of each token is our own score."""
    config = by_server(tiny, local, teacher__prompt=prompt)
    learner = train.prepare(config, tmp_path / "run", train.check(config, tmp_path / "run"))
    state, memory, found = learner.advance(learner.start(), {}, 0)
    rollout = memory["flight"]["rollout"]
    real = dataclasses.replace(learner, server=None, teacher=longer(local[0].teacher))
    _, _, own = real.advance(real.start(), {}, 0)
    np.testing.assert_allclose(found["loss_teacher"], own["loss_teacher"], rtol=1e-4)
    np.testing.assert_allclose(found["gradient_norm"], own["gradient_norm"], rtol=1e-3)
    assert np.all(np.asarray(rollout["logp_teacher"])[np.asarray(rollout["mask"])] < 0)
    assert found["flops"] < own["flops"] and "kl" not in found


@pytest.mark.slow
def test_a_server_that_dies_ends_a_run_that_is_saved_and_goes_on_bit_identically(
    tiny, local, tmp_path, capsys, monkeypatch
):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    config = by_server(tiny, local, updates=4, checkpoint__every=50)
    done = train.train(config, whole)
    assert done["claim"] == "opd_sampled: reverse_kl to the teacher"
    plain, count = served.Server.logp, []

    def dies(self, sequences):
        count.append(len(sequences))
        tiny.failing = 10**6 if len(count) > 2 else 0
        return plain(self, sequences)

    monkeypatch.setattr(served.Server, "logp", dies)
    with pytest.raises(SystemExit) as left:
        command.run(lambda: lambda: train.train(config, parts))
    assert left.value.code == 3
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: http://127.0.0.1") and "give the same command again" in said
    saved = checkpoint.steps(parts / "checkpoints")
    assert saved == [2] and not (parts / "done.json").exists()
    monkeypatch.undo()
    tiny.failing = 0
    again = train.train(config, parts)
    assert again["params_sha256"] == done["params_sha256"] and again["resumed_from"] == saved
    assert disk.read_jsonl(parts / served.FILE)
    begun = json.loads((parts / "config.json").read_text())
    assert begun["inputs"]["teacher"] == {"served": "tiny"}


REFUSED = {
    "the whole vocabulary": (
        {"method__name": "opd"},
        "opd needs the teacher's log-probabilities of the whole vocabulary, which a served teacher "
        "doesn't give: allowed are opd_sampled",
    ),
    "a temperature": ({"temperature": 0.7}, "config.temperature = 0.7: allowed is 1 with"),
    "a path besides": ({"teacher__path": "x"}, "allowed without config.teacher.path"),
    "a source besides": ({"teacher__source": "start"}, "allowed without config.teacher.path"),
    "nobody asks": ({"method__name": "grpo"}, "config.teacher.served.url = 'http"),
    "KL at evaluations": ({"evaluate__teacher": True}, "evaluate.teacher = True: allowed"),
    "a probe": ({"probe__every": 2}, "config.probe.every = 2: allowed is 0 with"),
    "no address": ({"teacher__served__url": "localhost"}, "url = 'localhost': allowed is htt"),
    "several": ({"teachers__players": ("a=b",)}, "config.teachers.players are both given"),
    "another model": ({"teacher__served__name": "big"}, "served.name = 'big': http"),
}  # fmt: skip


@pytest.mark.parametrize("why", REFUSED)
def test_what_a_server_does_not_give_is_refused_in_a_line(why, tiny, local, tmp_path):
    changes, message = REFUSED[why]
    with pytest.raises(ValueError) as error:
        train.check(by_server(tiny, local, **changes), tmp_path / "run")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_rows_that_can_be_had_are_named(tiny, local):
    with pytest.raises(ValueError) as error:
        checks.refuse_unserved(configs.build({"method": {"name": "opd_topk"}}).method.parsed)
    rows = str(error.value).rpartition("allowed are ")[2].split(", ")
    assert "opd_sampled" in rows and "opd" not in rows and "grpo" not in rows


def test_a_comparison_refuses_a_server(tiny, local, tmp_path):
    with pytest.raises(ValueError, match="config.teacher.served.url: allowed in a training only"):
        compare.check(by_server(tiny, local), tmp_path / "run")
