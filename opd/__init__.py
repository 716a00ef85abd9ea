"""On-policy distillation and reinforcement learning of language models as one program.

The commands are `python -m experiments.compare`, `.train` and `.evaluate`. From Python, on arrays
of your own, of B rollouts of T tokens over a vocabulary of V:

    Rollout.of(tokens, mask, reward=...)           what was drawn, and what a row asks besides
    gradient(row, rollout, student, teacher)       dJ/dlogits [B, T, V] of any row, in closed form
    decompose(gradients, partner, reference)       variance and its parts, SNR and bias of a sample
    statistics(rollout, student, teacher)          log-probabilities, entropies, KL: [B, T] each
    divergence(name, logp_student, logp_teacher)   value, weight and push of a divergence
    ess(rollout, logp_student, kind)               effective sample size of stale rollouts
    method(row, **axes)                            a row of the methods table, as an object
    Head(hidden, unembedding)                      in the place of logits, so that none are held
    load_model(folder), logits(policy, tokens), save_model(policy, folder)      a `Policy`

`student` and `teacher` are logits [B, T, V], at t those that token t is drawn from. Gradients are
ascent directions, log-probabilities in nats. A mistake is a ValueError of one line. A row is named
`opd_topk@k=8,tail=drop`; `python -m experiments.compare --list_methods` lists them.
`opd.method` is the room that the rows live in, too: a package that is called parses a name.

Is an estimator of your own biased? Here the k3 estimate of KL(pi || p) is differentiated as a loss,
on bigram models, and put beside the enumerated `opd` and the sampled `opd_sampled` on the same
rollouts.

>>> import jax, jax.numpy as jnp
>>> import opd
>>> B, T, V = 1000, 4, 5
>>> student, teacher = jax.random.normal(jax.random.key(0), (2, V, V))  # logits after each token
>>> drawn = [jnp.zeros(B, int)]
>>> for key in jax.random.split(jax.random.key(1), T):
...     drawn.append(jax.random.categorical(key, student[drawn[-1]]))
>>> states, tokens = jnp.stack(drawn[:-1], 1), jnp.stack(drawn[1:], 1)  # [B, T]
>>> def k3(logits, teacher, token):
...     gap = (jax.nn.log_softmax(teacher) - jax.nn.log_softmax(logits))[token]
...     return jnp.exp(gap) - 1 - gap
>>> both = student[states], teacher[states]  # [B, T, V]
>>> mine = -jax.vmap(jax.vmap(jax.grad(k3)))(*both, tokens)
>>> rollout = opd.Rollout.of(tokens)
>>> opds, sampled = (B * opd.gradient(row, rollout, *both) for row in ("opd", "opd_sampled"))
>>> def of_parameters(d_logits):  # from [B, T, V] to each rollout's gradient in the table, [B, V V]
...     per_rollout = jax.vmap(lambda at, d: jnp.zeros((V, V)).at[at].add(d))(states, d_logits)
...     return per_rollout.reshape(B, -1)
>>> mine, opds, sampled = map(of_parameters, (mine, opds, sampled))
>>> bias = mine.mean(0) - opds.mean(0)  # [V V]; its size, with an interval:
>>> opd.decompose(mine, reference=opds).relative_error.low > 0
True
>>> found = opd.decompose(sampled, partner=opds, reference=opds)
>>> found.relative_error.low < 0 < found.relative_error.high  # unbiased, as far as this shows
True
>>> found.total.low > found.across.high  # and that is what enumerating is for
True
"""

import importlib
import os

# jaxlib 0.10.2 to at least 0.12.0 hand some reductions to a CPU library that returns wrong sums,
# silently (jax-ml/jax issue 39103); a gradient of one estimator then leaks into another's. The
# flag turns that library off, and costs no time here. It is read when JAX first computes.
_LIBRARY = "xla_cpu_experimental_ynn_fusion_type"
if _LIBRARY not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --{_LIBRARY}=".strip()

# Where each name lives. Its room is imported when it is first asked for: `import opd` alone imports
# nothing. Type checkers read `__init__.pyi`.
_HOMES = {
    "Head": "opd.engine.vocab",
    "Policy": "opd.run.players.models",
    "Rollout": "opd.types",
    "decompose": "opd.measure.decompose",
    "divergence": "opd.engine.arrays",
    "ess": "opd.engine.arrays",
    "gradient": "opd.engine.arrays",
    "load_model": "opd.run.players.models",
    "logits": "opd.run.players.models",
    "method": "opd.method",  # the room itself
    "save_model": "opd.run.players.models",
    "statistics": "opd.engine.arrays",
}
__all__ = list(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'opd' has no attribute {name!r}")
    home = importlib.import_module(_HOMES[name])
    found = home if home.__name__ == f"opd.{name}" else getattr(home, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
