"""Where a completion says its final answer: markers, boxes and thoughts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opd.data import answers


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        (r"\boxed{42}", "42"),
        (r"\fbox{42}, \framebox{43}", "43"),
        (r"\boxed{41}. No: \boxed{42}.", "42"),
        (r"\fbox{41} \boxed{42}", "42"),
        (r"\boxed{42} \fbox{43}", "43"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\boxed{42}}", "42"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{ x \right.} {}", r"\left\{ x \right."),
        (r"$\boxed 42$ or so", "42"),
        (r"\boxed{42} as in \boxed{}", "42"),
        (r"\boxed{ } \boxed{}", ""),
        ("\\boxed{42\nand more", "42"),
        (r"\boxed", ""),
        (r"\boxedby{42}", None),
        ("42", None),
    ],
)
def test_the_last_box_that_holds_something_counts(text, holds):
    assert answers.boxed(text) == holds


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("#### 42", "42"),
        ("####42\nmore", "42"),
        ("#### 41\n#### 42", "42"),
        ("#### 41 #### 42", "42"),
        ("##### 42", "42"),
        (r"\#\#\#\# 42", "42"),
        ("#### 42 ####", "42"),
        ("#### 42 ##  \n", "42"),
        ("####\n\n42", "42"),
        ("#### Answer\n42\n43", "42"),
        ("#### The **answer**:\n\n 42", "42"),
        ("#### Working:\n6*7", "6*7"),
        ("#### Answer", "Answer"),
        ("#### Answer 42:\n43", "Answer 42:"),
        ("#### none\n42", "none"),
        ("42\n####", ""),
        ("42\n#### ####", ""),
        ("### 42", None),
    ],
)
def test_the_last_marker_s_line_counts(text, line):
    assert answers.marked(text) == line


@pytest.mark.parametrize("tag", ["think", "thinking", "thought", "reasoning", "THINK"])
def test_what_follows_the_last_thought_counts(tag):
    assert answers.after_thought(f"<{tag}>a</{tag}>b</{tag}> c") == " c"
    assert answers.after_thought(f"<{tag}>a") == f"<{tag}>a"


@given(st.text(alphabet=r"\{}boxed#f \n4", max_size=40))
def test_any_text_has_an_answer_or_none(text):
    for found in (answers.boxed(text), answers.marked(text)):
        assert found is None or found in text.replace(r"\#", "#")
