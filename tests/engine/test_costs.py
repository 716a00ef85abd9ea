"""What an update costs: our count against the programs as written, and against XLA's."""

import dataclasses
import fractions
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import pytest

from opd.engine import costs, estimator, programs, sharding, steps, vocab
from opd.engine.optimizer import Optimizer, OptimizerConfig
from opd.engine.vocab import Head, Pass
from opd.method import table
from opd.model import decoder
from opd.model.decoder import Decoder, DecoderConfig
from opd.types import Rollout

# Every size differs from every other, so that a swap shows.
STUDENT = Decoder(
    DecoderConfig(vocab=29, width=12, layers=3, heads=4, kv_heads=2, head_dim=10, mlp=22)
)
TEACHER = Decoder(DecoderConfig(vocab=29, width=18, layers=2, heads=3, head_dim=8, mlp=26))
B, P, T = 2, 5, 7
CHUNK = 4  # two chunks, the second padded by one token

NAMES = (
    "opd",
    "opd_sampled",
    "opd_baseline",
    "opd_resampled@k=4",
    "opd_topk@k=8",
    "opd@gamma=0.5",
    "opd_sampled@gamma=1",
    "opd_sampled@normaliser=whiten",
    "soft_label",
    "soft_label@expectation=sampled",
    "reinforce",
    "grpo",
    "sft",
)

# The model that XLA counts: matmuls dominate, and what they dominate stays within a few percent.
WIDE = Decoder(
    DecoderConfig(vocab=512, width=128, layers=2, heads=4, kv_heads=2, head_dim=32, mlp=256)
)
SEQUENCE = 64
# XLA counts elementwise work too, about 5 to 10 FLOPs a number, and we don't: so it says more than
# we, never less. Here that is 3 % of the body (softmax, rotation, norms) and of the vocabulary
# (a dozen FLOPs a logit beside 2 D = 256 of each matmul).
ELEMENTWISE = 0.06


def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def params_of(model):
    return jax.eval_shape(model.init, jax.random.key(0))


def rollout_of(batch, prompt, length):
    integers = functools.partial(array, dtype=jnp.int32)
    flags = functools.partial(array, dtype=jnp.bool_)
    return Rollout(
        prompt=integers(batch, prompt),
        prompt_mask=flags(batch, prompt),
        tokens=integers(batch, length),
        mask=flags(batch, length),
        logp_behavior=array(batch, length),
        ended=flags(batch),
        group=integers(batch),
        row=integers(batch),
        reward=array(batch),
    )


def head_of(model, batch, length):
    return Head(array(batch, length, model.width), array(model.vocab, model.width))


def teacher_of(method, model, batch, length):
    return head_of(model, batch, length) if costs.needs_teacher(method) else None


def matmuls(function, *arguments, loop=1):
    """FLOPs of every dot_general that a program asks for, loops multiplied out; exact.

    `loop` is how often a while loop runs; those nested in it have no matmuls.
    """

    def count(jaxpr):
        total = 0
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "dot_general":
                (contracted, _), _ = eqn.params["dimension_numbers"]
                left = eqn.invars[0].aval.shape
                summed = math.prod(left[axis] for axis in contracted)
                total += 2 * summed * math.prod(eqn.outvars[0].aval.shape)
            times = {"scan": eqn.params.get("length"), "while": loop}.get(eqn.primitive.name, 1)
            total += times * sum(count(inner) for inner in inside(eqn.params))
        return total

    def inside(params):
        for value in jax.tree.leaves(list(params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            if hasattr(value, "eqns"):
                yield getattr(value, "jaxpr", value)

    return count(jax.make_jaxpr(function)(*arguments).jaxpr)


def xla(function, *arguments):
    """FLOPs that XLA counts in the compiled program, elementwise work included."""
    return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]


@pytest.fixture
def unrolled(monkeypatch):
    """Decoders whose layers are no loop: XLA counts a loop's body once."""
    scan = decoder.nn.scan

    def unrolling(*args, length, **options):
        return scan(*args, length=length, unroll=length, **options)

    monkeypatch.setattr(decoder.nn, "scan", unrolling)


@pytest.mark.parametrize("name", NAMES)
def test_update_is_what_the_program_asks_for(name):
    method = table.parse(name)
    how = Pass(chunk=CHUNK)
    rollout, draws = rollout_of(B, P, T), vocab.draws((method.rules,))

    def update(params, rollout, teacher, uniforms):
        return steps.pull_back(STUDENT, params, rollout, teacher, (method,), uniforms, how)

    teacher = teacher_of(method, TEACHER, B, T)
    uniforms = array(B, T, draws) if draws else None
    asked = matmuls(update, params_of(STUDENT), rollout, teacher, uniforms)
    assert asked == B * costs.flops(STUDENT, TEACHER, method, P, T, how)["update"]


def test_teacher_is_what_the_program_asks_for():
    asked = matmuls(functools.partial(steps.head, TEACHER), params_of(TEACHER), rollout_of(B, P, T))
    found = costs.flops(STUDENT, TEACHER, table.parse("opd"), P, T)
    assert asked == B * found["teacher"] > 0
    assert found["total"] == found["rollout"] + found["teacher"] + found["update"]


@pytest.mark.parametrize("prompt", [1, P])
def test_rollout_is_what_the_program_asks_for(prompt):
    how = steps.Sampling(length=T, eos_ids=(1,), pad_id=0, top_p=0.9)
    given = rollout_of(B, prompt, T)

    def draw(params, rollout):
        return steps.rollout_step(
            STUDENT,
            params,
            rollout.prompt,
            rollout.prompt_mask,
            rollout.group,
            rollout.row,
            jax.random.key(0),
            how,
        )

    asked = matmuls(draw, params_of(STUDENT), given, loop=T)
    assert asked == B * costs.flops(STUDENT, None, table.parse("grpo"), prompt, T)["rollout"]


def test_xla_counts_a_forward_alike(unrolled):
    tokens, mask = array(B, SEQUENCE, dtype=jnp.int32), array(B, SEQUENCE, dtype=jnp.bool_)
    counted = xla(WIDE.hidden, params_of(WIDE), tokens, mask)
    ours = B * WIDE.matmul_flops(SEQUENCE, SEQUENCE)
    assert ours < counted < (1 + ELEMENTWISE) * ours


def test_xla_counts_forward_and_backward_alike(unrolled):
    def both(params, tokens, mask, cotangent):
        hidden, vjp = jax.vjp(lambda params: WIDE.hidden(params, tokens, mask), params)
        return hidden, vjp(cotangent)

    tokens, mask = array(B, SEQUENCE, dtype=jnp.int32), array(B, SEQUENCE, dtype=jnp.bool_)
    counted = xla(both, params_of(WIDE), tokens, mask, array(B, SEQUENCE, WIDE.width))
    ours = 3 * B * WIDE.matmul_flops(SEQUENCE, SEQUENCE)
    assert ours < counted < (1 + ELEMENTWISE) * ours


def vocabulary_pass(method, length):
    """The vocabulary's part of an update, in one chunk, and its arguments."""
    how = Pass(chunk=length)

    def vocabulary(student, teacher, rollout):
        return estimator.cotangents(student, teacher, rollout, (method,), None, how)

    teacher = teacher_of(method, WIDE, B, length)
    return vocabulary, head_of(WIDE, B, length), teacher, rollout_of(B, P, length)


@pytest.mark.parametrize("name", ["reinforce", "opd", "opd_sampled@gamma=0.5"])
def test_xla_counts_the_vocabulary_alike(name):
    """With gamma too: in one chunk, XLA makes the logits of both passes once."""
    method, length = table.parse(name), 16
    counted = xla(*vocabulary_pass(method, length))
    found = costs.flops(WIDE, WIDE, method, P, length, Pass(chunk=length))
    ours = B * (found["update"] - 3 * WIDE.matmul_flops(P + length - 1, P + length - 1))
    assert ours < counted < (1 + ELEMENTWISE) * ours


def test_a_second_pass_costs_logits_again_where_there_are_chunks():
    def update(name, chunk):
        return costs.flops(STUDENT, TEACHER, table.parse(name), P, 8, Pass(chunk=chunk))["update"]

    assert update("opd_sampled@gamma=1", 8) == update("opd_sampled", 8) == update("opd_sampled", 4)
    more = update("opd_sampled@gamma=1", 4) - update("opd_sampled", 4)
    assert more == 8 * 2 * 29 * (12 + 18)


def test_a_method_costs_only_what_it_asks_for():
    costs_of = functools.partial(costs.flops, STUDENT, TEACHER, prompt=P, length=T)
    assert costs_of(method=table.parse("grpo"))["teacher"] == 0
    assert costs_of(method=table.parse("sft"))["rollout"] == 0
    assert all(isinstance(value, int) for value in costs_of(method=table.parse("opd")).values())
    assert costs.flops(STUDENT, None, table.parse("grpo"), P, T) == costs_of(
        method=table.parse("grpo")
    )


@pytest.mark.parametrize(
    ("teacher", "prompt", "length", "message"),
    [
        (None, P, T, "opd needs a teacher, and none is given"),
        (TEACHER, 0, T, "prompt 0 and length 7: at least 1 is allowed"),
        (TEACHER, P, 0, "prompt 5 and length 0: at least 1 is allowed"),
    ],
)
def test_flops_refuse_what_they_cannot_count(teacher, prompt, length, message):
    with pytest.raises(ValueError, match=message):
        costs.flops(STUDENT, teacher, table.parse("opd"), prompt, length)


def test_rows_share_a_program_exactly_if_only_scalars_differ():
    def key(name):
        return costs.program_key(table.parse(name))

    assert key("reinforce") == key("grpo") == key("rloo")
    assert key("opd_sampled") == key("opd_baseline")
    assert key("opd_sampled@gamma=0.5") == key("opd_sampled@gamma=1")
    assert key("opd@gamma=0.5") == key("opd@gamma=1")
    different = [
        "opd",
        "opd_sampled",
        "opd_sampled@gamma=1",
        "opd@gamma=1",
        "reinforce",
        "sft",
        "soft_label",
        "opd_resampled@k=2",
        "opd_resampled@k=4",
        "opd_topk@k=8",
        "opd_topk@k=8,tail=drop",
    ]
    assert len({key(name) for name in different}) == len(different)


def test_rows_that_share_a_program_share_a_count():
    methods = [table.parse(name) for name in dict.fromkeys([*table.ROWS, *NAMES])]
    how = Pass(chunk=CHUNK)
    shared = 0
    for left, right in itertools.combinations(methods, 2):
        if costs.program_key(left) == costs.program_key(right):
            found = [costs.flops(STUDENT, TEACHER, row, P, T, how) for row in (left, right)]
            assert found[0] == found[1], (left.name, right.name)
            shared += 1
    assert shared >= 4


def test_one_program_serves_rows_of_one_key():
    """The jaxprs of two rows of one key have the same equations over [B, c, V], in number."""

    def large(name):
        method = table.parse(name)
        vocabulary, *arguments = vocabulary_pass(method, 16)
        jaxpr = jax.make_jaxpr(vocabulary)(*arguments)
        shapes = [out.aval.shape for eqn in jaxpr.eqns for out in eqn.outvars]
        return shapes.count((B, 16, WIDE.vocab))

    assert large("reinforce") == large("grpo") > 5
    assert large("opd_sampled") == large("opd_baseline") > large("reinforce")
    assert large("opd_sampled@gamma=1") == large("opd_sampled@gamma=0.5") > large("opd_sampled")


def test_peak_bytes_of_a_known_program():
    x, y = array(1024), array(1024)  # 4096 bytes each
    add = jax.jit(lambda x, y: x + y)
    assert costs.peak_bytes(add.lower(x, y).compile()) == 3 * 4096
    donating = jax.jit(lambda x, y: x + y, donate_argnums=0)
    assert costs.peak_bytes(donating.lower(x, y).compile()) == 2 * 4096
    inner = jax.jit(lambda x: jnp.sort(x) @ jnp.cos(x))
    assert costs.peak_bytes(inner.lower(x).compile()) >= 2 * 4096


def test_peak_bytes_of_an_update():
    """At least what comes in; the state that goes out lies where the one that came in lay."""
    mesh, method = sharding.make_mesh(jax.devices()[:1]), table.parse("opd")
    optimizer, params = Optimizer(OptimizerConfig(), 0.1), params_of(STUDENT)
    state = steps.State(params, jax.eval_shape(optimizer.init, params), array(dtype=jnp.int32))
    rollout, teacher = rollout_of(B, P, T), head_of(TEACHER, B, T)
    seed, how = array(dtype=jnp.uint32), Pass(chunk=CHUNK)

    arguments = (mesh, STUDENT, optimizer, state, rollout, teacher, method, seed, how)
    compiled = programs.update.lower(*arguments).compile()
    state_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    logits_bytes = 4 * B * CHUNK * STUDENT.vocab
    peak = costs.peak_bytes(compiled)
    assert isinstance(peak, int)
    flag = 1  # of the state, that the last gradient was finite: no update reads it
    assert compiled.memory_analysis().alias_size_in_bytes >= state_bytes - flag
    assert state_bytes + logits_bytes < peak < 6 * state_bytes


@dataclasses.dataclass
class Machine:
    """A clock that only programs move, and a log of what ran and what was waited for."""

    now: float = 0.0
    log: list = dataclasses.field(default_factory=list)

    def program(self, name, *durations):
        left = itertools.chain(durations, itertools.repeat(durations[-1]))

        def run():
            self.log.append(name)
            return name, next(left)

        return run

    def wait(self, result):
        self.now += result[1]
        self.log.append(f"{result[0]} done")
        return result


def test_seconds_are_interleaved_and_waited_for(monkeypatch):
    machine = Machine()
    monkeypatch.setattr(costs.time, "perf_counter", lambda: machine.now)
    monkeypatch.setattr(costs.jax, "block_until_ready", machine.wait)
    a, b = machine.program("a", 99, 1, 2, 4), machine.program("b", 88, 8, 16, 32)
    assert costs.seconds({"a": a, "b": b}, repeats=3) == {"a": [1, 2, 4], "b": [8, 16, 32]}
    assert machine.log == ["a", "a done", "b", "b done"] * 4  # the warm-up is the first


def test_seconds_of_real_programs():
    x = jnp.ones(8)
    taken = costs.seconds({"sum": lambda: jnp.sum(x)})
    assert len(taken["sum"]) == 5 and min(taken["sum"]) > 0
    with pytest.raises(ValueError, match="repeats is 0: at least 1"):
        costs.seconds({}, repeats=0)


def test_the_whole_is_summed_within_each_repeat():
    assert costs.whole([[1, 2, 3], [10, 20, 30]]) == [11, 22, 33]
    with pytest.raises(ValueError):
        costs.whole([[1, 2], [1]])


def coverage(count, out):
    """P(X_(out + 1) <= median <= X_(n - out)), exactly."""
    below = sum(math.comb(count, i) for i in range(out + 1))
    return 1 - fractions.Fraction(2 * below, 2**count)


@pytest.mark.parametrize("count", range(6, 60))
def test_the_interval_is_the_narrowest_that_covers(count):
    value, low, high = costs.median([float(i) for i in reversed(range(count))])
    assert value == (count - 1) / 2
    assert low + high == count - 1
    assert coverage(count, int(low)) >= 0.95 > coverage(count, int(low) + 1)


def test_few_samples_give_the_widest_interval():
    assert costs.median([3.0, 1.0, 2.0, 5.0, 4.0]) == (3.0, 1.0, 5.0)
    assert coverage(5, 0) == fractions.Fraction(9375, 10000)
    assert costs.median([2.0]) == (2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="at least 1"):
        costs.median([])
