"""How a training's rollouts are drawn, and what that makes of them."""

import pytest

from opd.engine.steps import Sampling
from opd.method import facts
from opd.run.rollouts import sampling
from opd.run.rollouts.sampling import SamplingConfig

VOCAB = 12
POLICY = Sampling(5, eos_ids=(1,), pad_id=0, temperature=0.7)
ASKED = {
    "policy": ({}, {"temperature": 0.7}, {"top_k": VOCAB}, {"top_p": 1.0}),
    "tempered": ({"temperature": 1.0}, {"temperature": 0.5, "top_k": VOCAB, "top_p": 1.0}),
    "truncated": ({"top_k": 3}, {"top_p": 0.9}, {"temperature": 1.0, "top_k": VOCAB - 1}),
}


@pytest.mark.parametrize("law", ASKED)
def test_the_law_is_what_the_config_asks_for(law):
    assert ASKED.keys() == set(facts.LAWS)
    for asked in ASKED[law]:
        found = sampling.drawn(SamplingConfig(**asked), POLICY, VOCAB)
        assert sampling.law(POLICY, found) == law
        assert law != "policy" or found == POLICY  # so that no second program is compiled
        assert found.temperature == asked.get("temperature", 0.7) and found.length == 5
        if law == "truncated":
            assert (found.top_p, found.top_k) == (asked.get("top_p"), asked.get("top_k"))


@pytest.mark.parametrize("top_k", [0, VOCAB + 1])
def test_a_top_k_that_can_not_be_is_refused(top_k):
    with pytest.raises(ValueError, match=rf"^config.sampling.top_k = {top_k}: allowed is 1 to 12$"):
        sampling.drawn(SamplingConfig(top_k=top_k), POLICY, VOCAB)
