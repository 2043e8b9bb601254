"""The requests of a run, before any is sent."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm_trl.notes import DlmError, Document, parse, read
from dlm_trl.synth import plan as plan_module
from dlm_trl.synth.budget import max_prompt_tokens
from dlm_trl.synth.plan import SCHEMA, plan, retry
from dlm_trl.synth.settings import SynthSettings
from dlm_trl.teachers.load import UnloadedTeacher
from dlm_trl.teachers.protocol import Reply, Request
from tests.synth.writer import HEAD, TOPICS, prose


class Reader:
    """A teacher that gets no requests; a word is a token, and `context` the maximum."""

    reference = revision = "t"

    def __init__(self, context: int | None = None) -> None:
        self.context = context

    def generate(self, requests: Sequence[Request]) -> Iterator[Reply]:
        raise AssertionError("Planning sends no requests.")

    def count_tokens(self, messages: Sequence[Mapping[str, str]]) -> int:
        return sum(len(message["content"].split()) for message in messages)


SHORT = SynthSettings(max_new_tokens=20)


def document(*sections: str) -> Document:
    return parse(HEAD + "\n::prose::\n".join(f"{section}\n" for section in sections))


@pytest.mark.parametrize(("n", "budgets"), [(1, [1]), (2, [1, 1]), (3, [2, 1]), (4, [2, 2])])
def test_both_strategies_split_the_pairs(n: int, budgets: list[int]) -> None:
    asks = plan(document("Elm."), SynthSettings(strategy="both", per_section=n), Reader())
    assert [ask.n for ask in asks] == budgets
    assert [ask.strategy for ask in asks] == ["extraction", "expansion"][: len(budgets)]
    assert [ask.request.messages[0]["content"].split()[1] for ask in asks] == [str(budget) for budget in budgets]


@pytest.mark.parametrize("strategy", ["extraction", "expansion"])
def test_one_strategy_gets_all_pairs(strategy: str) -> None:
    (ask,) = plan(document("Elm."), SynthSettings(strategy=strategy, per_section=5), Reader())
    assert (ask.strategy, ask.n) == (strategy, 5)


def test_prose_is_stripped_pairs_are_skipped_and_repeats_are_requested_once() -> None:
    pairs = "::instruction::\n### Q\nq\n### A\na\n"
    notes = parse(f"{HEAD}\n  Elm.  \n\n{pairs}::prose::\n\nElm.\n{pairs}::prose::\n \n::prose::\nFir.\n")
    asks = plan(notes, SynthSettings(), Reader())
    assert [ask.prose for ask in asks] == ["Elm.", "Fir."]
    assert asks[0].section_id == notes.sections[0].section_id


def test_files_of_training_sources_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "other.txt").write_text(prose("Yew"))
    head = HEAD.replace("base_model", "training:\n  sources:\n  - path: more\nbase_model")
    path = tmp_path / "notes.dlm"
    path.write_text(f"{head}\n{prose('Elm')}\n")
    assert [ask.prose for ask in plan(read(path), SynthSettings(), Reader())] == [prose("Elm")]


def test_windows_of_long_prose_fit_and_share_the_budget() -> None:
    paragraphs = [" ".join([topic] * 40) for topic in TOPICS[:5]]
    settings = replace(SHORT, per_section=7, strategy="both")
    asks = plan(document("\n\n".join(paragraphs)), settings, Reader(200))
    for strategy, budget in (("extraction", 4), ("expansion", 3)):
        own = [ask for ask in asks if ask.strategy == strategy]
        assert len(own) > 1 and sum(ask.n for ask in own) == budget
        assert all(Reader().count_tokens(ask.request.messages) + 20 <= 200 for ask in own)
        assert all(ask.n for ask in own)
    assert "\n\n".join(ask.prose for ask in asks if ask.strategy == "extraction") == "\n\n".join(paragraphs)


def test_a_seed_does_not_matter_at_temperature_0() -> None:
    def key(temperature: float, seed: int | None) -> str:
        (ask,) = plan(document("Elm."), SynthSettings(temperature=temperature, seed=seed), Reader())
        return ask.request.key

    assert key(0.0, 1) == key(0.0, 2) == key(0.0, None)
    assert key(0.5, 1) != key(0.5, 2)


def test_a_changed_schema_changes_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    def request() -> Request:
        (ask,) = plan(document("Elm."), SynthSettings(), Reader())
        return ask.request

    before = request()
    monkeypatch.setattr(plan_module, "SCHEMA", {"type": "object"})
    assert request().schema == {"type": "object"} and request().key != before.key


def test_vllm_gets_a_schema_with_at_most_as_many_pairs_as_requested() -> None:
    teacher = UnloadedTeacher("vllm-server:http://localhost:1#m", "m")
    (ask,) = plan(document("Elm."), replace(SHORT, per_section=4), teacher)
    again = retry(ask, "No.", "That isn't a list.", SHORT, teacher)
    for request in (ask.request, again and again.request):
        assert request and request.schema and request.schema["properties"]["pairs"]["maxItems"] == 4
    assert "maxItems" not in SCHEMA["properties"]["pairs"]


def test_an_empty_reply_is_retried_with_a_nonempty_turn() -> None:
    (ask,) = plan(document("Elm."), SHORT, Reader())
    for reply in ("", " \n"):
        second = retry(ask, reply, "The reply is empty.", SHORT, Reader())
        assert second and second.request.messages[1] == {"role": "assistant", "content": "[]"}


def test_a_warning_tells_if_long_prose_is_not_covered(caplog: pytest.LogCaptureFixture) -> None:
    notes = document("Elm.", "\n\n".join(f"word{i} " * 50 for i in range(12)))
    parts = len(plan(notes, replace(SHORT, per_section=30), Reader(200))) - 1
    assert 3 < parts < 30 and not caplog.messages
    plan(notes, replace(SHORT, per_section=3), Reader(200))
    (warning,) = caplog.messages
    assert (
        f":{notes.sections[1].content_line}: this prose takes {parts} requests" in warning
        and "3 extraction pairs" in warning
    )


def test_long_prose_without_spaces_is_split_too() -> None:
    class Letters(Reader):
        """A character is a token."""

        def count_tokens(self, messages: Sequence[Mapping[str, str]]) -> int:
            return sum(len(message["content"]) for message in messages)

    text = "".join(f"第{i}条古道连接西南与西藏。" for i in range(60))
    asks = plan(document(text), SHORT, Letters(400))
    assert len(asks) == 3 and all(ask.prose in text and ask.prose.endswith("。") for ask in asks)
    assert all(Letters().count_tokens(ask.request.messages) + 20 <= 400 for ask in asks)


def test_a_given_context_bounds_the_windows_of_a_server() -> None:
    notes = document("The pump is bled. " * 400)
    teacher = UnloadedTeacher("openai:m", "m")
    whole = plan(notes, SynthSettings(per_section=99), teacher)
    parts = plan(notes, SynthSettings(per_section=99, context=2_000, max_new_tokens=100), teacher)
    assert len(whole) == 1 and len(parts) > 2
    assert all(max_prompt_tokens(p.request.messages, teacher) + 100 <= 2_000 for p in parts)


def test_a_retry_keeps_to_the_given_context() -> None:
    settings = SynthSettings(context=900, max_new_tokens=100)
    teacher = UnloadedTeacher("openai:m", "m")
    (planned,) = plan(document("The pump is bled."), settings, teacher)
    assert retry(planned, "No.", "There is no JSON.", settings, teacher) is not None
    assert retry(planned, "No. " * 100, "There is no JSON.", settings, teacher) is None


def test_prose_in_other_scripts_counts_by_bytes() -> None:
    notes = document("水泵每周一排气。" * 1000)
    assert len(plan(notes, SynthSettings(per_section=99), UnloadedTeacher("openai:m", "m"))) == 2


def test_a_too_short_context_is_one_error() -> None:
    with pytest.raises(DlmError, match="context of 60 tokens") as caught:
        plan(document("Elm.", "Fir."), SHORT, Reader(60))
    assert caught.value.kind == "UsageError" and "--max-new-tokens" in str(caught.value)


@given(st.integers(2, 40), st.integers(1, 40))
def test_with_max_pairs_any_first_part_covers_the_file(count: int, first: int) -> None:
    notes = document(*(f"Section {i}." for i in range(count)))
    asks = plan(notes, SynthSettings(max_pairs=first), Reader())
    places = sorted(int(ask.prose.split()[1].rstrip(".")) for ask in asks)
    assert places == list(range(count))
    if 1 < first <= count:
        begun = sorted(int(ask.prose.split()[1].rstrip(".")) for ask in asks[:first])
        gaps = [b - a for a, b in zip([-1, *begun], [*begun, count], strict=True)]
        assert max(gaps) <= 3 * count / first + 1


def test_a_retry_quotes_the_reply_and_the_problem() -> None:
    (ask,) = plan(document("Elm."), SHORT, Reader(200))
    second = retry(ask, "no list", "There is no JSON object in the reply.", SHORT, Reader(200))
    assert second is not None and second.request.key != ask.request.key
    first, reply, correction = second.request.messages
    assert first == ask.request.messages[0]
    assert reply == {"role": "assistant", "content": "no list"}
    assert "There is no JSON object in the reply." in correction["content"]
    assert retry(ask, "word " * 200, "Too long.", SHORT, Reader(200)) is None
    half = retry(ask, "half \ud83d", "There is no JSON object in the reply.", SHORT, Reader(200))
    assert half is not None and half.request.messages[1]["content"] == "half ?", "no request can carry half a pair"


@pytest.mark.parametrize(
    "values",
    [
        {"ask": "one"}, {"ask": "sentences", "prompt": "p.jinja"}, {"ask": "sentences", "strategy": "expansion"},
        {"uncovered": True, "ask": "list"}, {"uncovered": True, "prompt": "p.jinja"},
        {"uncovered": True, "strategy": "expansion"}, {"uncovered": True, "strategy": "both"},
        {"per_section": 0}, {"max_pairs": 0}, {"max_new_tokens": 0}, {"temperature": -1}, {"temperature": float("nan")},
        {"top_p": 0}, {"top_p": 1.5}, {"top_p": float("nan")}, {"concurrency": 0}, {"max_cost": 1.0},
        {"max_cost": float("nan"), "price": (1, 1)}, {"max_cost": float("inf"), "price": (1, 1)}, {"price": (-1, 1)},
        {"price": (1, float("nan"))}, {"budget_tokens": 0}, {"threshold": float("nan")},
        {"min_grounding": float("nan")}, {"teacher": 'openai:"m"'},
        {"strategy": "extract"}, {"filter": "dedup"}, {"judge": "openai:m"}, {"judge": "hf:"}, {"judge": ""},
    ],
)  # fmt: skip
def test_invalid_settings(values: dict[str, object]) -> None:
    with pytest.raises(DlmError) as caught:
        SynthSettings(**values)
    assert caught.value.kind == "UsageError"


class TestPrompt:
    def test_a_prompt_file_is_used(self, tmp_path: Path) -> None:
        path = tmp_path / "prompt.txt"
        path.write_text("\ufeff{{ n }} {{ strategy }} pairs, please: <{{ prose }}>")
        asks = plan(document("Elm."), SynthSettings(prompt=path, strategy="both"), Reader())
        contents = [ask.request.messages[0]["content"] for ask in asks]
        assert contents == ["2 extraction pairs, please: <Elm.>", "1 expansion pairs, please: <Elm.>"]
        assert asks[0].request.key != plan(document("Elm."), SynthSettings(strategy="both"), Reader())[0].request.key

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("Write\n{{ n }} pairs {% if %} {{ prose }}", "prompt.txt:2: "),
            ("Write\n\n{{ count }} pairs: {{ prose }}", "prompt.txt:3: .*'count' is undefined"),
            ("Write {{ n }} pairs.", "prompt.txt: .*doesn't include the prose"),
            ("{% if strategy == 'extraction' %}{{ prose }}{% endif %}", "prompt.txt: .*doesn't include the prose"),
            ("{{ prose }}\n{{ n / 0 }}", "prompt.txt:2: .*doesn't render"),
            ("{{ prose }}\n{% include 'x' %}", "prompt.txt:2: .*doesn't render"),
            ("{{ prose }}\n{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}", "prompt.txt:2: .*recursion"),
            ("{{ prose }}\n{{ prose.__class__.__mro__ }}", "prompt.txt:2: .*unsafe"),
            ("{{ prose }}\n{{ range(10 ** 9) }}", "prompt.txt:2: .*doesn't render"),
            ("{{ prose }}\n{% if n == 1 %}{{ count }}{% endif %}", "prompt.txt:2: .*'count' is undefined"),
            ("{{ prose }}\n{% if 'Elm' in prose %}{{ count }}{% endif %}", "prompt.txt:2: .*'count' is undefined"),
            (b"\xff{{ prose }}", "prompt.txt: .*can't be read"),
        ],
    )
    def test_a_broken_prompt_is_refused_with_its_line(self, tmp_path: Path, text: str | bytes, message: str) -> None:
        path = tmp_path / "prompt.txt"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(DlmError, match=message) as caught:
            plan(document("Elm."), SynthSettings(prompt=path, per_section=1), Reader())
        assert caught.value.kind == "PromptError" and ".." not in str(caught.value)
