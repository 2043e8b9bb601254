"""Local teachers: one reply per request, with its usage, independent of the batch."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.models.generate import generate
from dlm_trl.models.load import load_base, load_tokenizer
from dlm_trl.notes import DlmError
from dlm_trl.synth.prompts import pair_messages
from dlm_trl.teachers.local import LocalTeacher
from dlm_trl.teachers.protocol import Reply, Request, Usage

PROSE = [
    "A starter is a mix of flour and water in which wild yeast and bacteria live.",
    "Kneading is pressing and folding a dough until it is smooth.",
    "A banneton is a basket. " * 6 + "It gives a loaf its shape.",
]


@pytest.fixture(scope="module")
def teacher() -> LocalTeacher:
    """The embedded model, with small batches."""
    return LocalTeacher(load_base("tiny"), load_tokenizer("tiny"), "hf:tiny", "1", 1024, token_budget=1500)


def messages(i: int) -> list[dict[str, str]]:
    return pair_messages(PROSE[i % len(PROSE)], 1 + i % 2)


def answers(teacher: LocalTeacher, requests: Sequence[Request]) -> dict[str, Reply]:
    replies = list(teacher.generate(requests))
    assert len(replies) == len(requests)
    return {reply.key: reply for reply in replies}


def test_replies_are_the_models_texts_with_every_token_counted(teacher: LocalTeacher) -> None:
    requests = [Request(f"r{i}", messages(i), 60) for i in range(6)]
    replies = answers(teacher, requests)
    for request in requests:
        prompt = teacher.tokenizer.apply_chat_template(request.messages, add_generation_prompt=True, return_dict=False)
        (text,) = generate(teacher.model, teacher.tokenizer, [prompt], 60)
        reply = replies[request.key]
        assert (reply.text, reply.error) == (text, None)
        assert '"question"' in reply.text
        # Not by tokenising the text: a model may generate it with other tokens.
        alone = teacher.model.generate(torch.tensor([prompt]), max_new_tokens=60, do_sample=False)
        assert reply.usage == Usage(len(prompt), alone.shape[1] - len(prompt))
        assert teacher.count_tokens(request.messages) == len(prompt)
        assert reply.seconds > 0
    assert {reply.usage.completion_tokens == 60 for reply in replies.values()} == {True, False}


SETTINGS = st.tuples(st.integers(0, 5), st.sampled_from([0.0, 0.7, 1.0]), st.sampled_from([None, 0.9]))


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(SETTINGS, min_size=2, max_size=10), st.randoms(use_true_random=False))
def test_a_reply_depends_only_on_its_request(teacher: LocalTeacher, asked, random) -> None:
    requests = [
        Request(f"{n}", messages(i), 12 + i, temperature, top_p) for n, (i, temperature, top_p) in enumerate(asked)
    ]
    together = {key: reply.text for key, reply in answers(teacher, requests).items()}
    random.shuffle(requests)
    half = len(requests) // 2
    apart = {**answers(teacher, requests[:half]), **answers(teacher, requests[half:])}
    assert {key: reply.text for key, reply in apart.items()} == together


def test_samples_differ_by_key_and_seed(teacher: LocalTeacher) -> None:
    def text(key: str, seed: int | None) -> str:
        return answers(teacher, [Request(key, messages(0), 40, temperature=1.5, seed=seed)])[key].text

    assert text("a", None) == text("a", None)
    assert len({text("a", None), text("b", None), text("a", 1), text("a", 2)}) == 4


def test_temperature_and_top_p_are_per_request(teacher: LocalTeacher) -> None:
    requests = [
        Request(f"{temperature} {top_p}", messages(0), 40, temperature, top_p)
        for temperature, top_p in ((0.0, None), (1.5, 1e-6), (1.5, 0.9), (0.0, 0.9))
    ]
    greedy, narrow, sampled, also_greedy = (answers(teacher, requests)[request.key].text for request in requests)
    assert greedy == narrow == also_greedy != sampled  # the most likely token has a mass above 1e-6


def test_replies_come_batch_by_batch_and_the_iterator_can_be_closed(teacher: LocalTeacher) -> None:
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    requests = [Request(f"{i}", messages(i), 200) for i in range(8)]
    hook = teacher.model.register_forward_pre_hook(count)
    try:
        replies = teacher.generate(requests)
        next(replies)
        first = calls
        next(replies)
        replies.close()
        assert 0 < calls <= first + 200
        calls = 0
        answers(teacher, requests)
        assert calls > first  # the first replies came before the last batch began
    finally:
        hook.remove()


def test_a_prompt_that_does_not_fit_is_a_reply_with_an_error(teacher: LocalTeacher) -> None:
    long, short = pair_messages(PROSE[0] * 40, 1), messages(1)
    fits = 1024 - teacher.count_tokens(short)
    requests = [
        Request("long", long, 200), Request("short", short, 5), Request("just", short, fits),
        Request("over", short, fits + 1),
    ]  # fmt: skip
    replies = answers(teacher, requests)
    assert {key for key, reply in replies.items() if reply.error} == {"long", "over"}
    assert replies["over"].error == (
        f"The prompt is too long for hf:tiny: {1024 - fits} prompt tokens and {fits + 1} new tokens exceed 1024."
    )
    assert (replies["over"].usage, replies["over"].text) == (Usage(), "")


def test_messages_that_the_template_refuses_are_a_reply_with_an_error(
    model: PreTrainedModel, random_base: Path
) -> None:
    tokenizer = load_tokenizer(str(random_base))
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not\nsupported') }}{% endif %}"
        + tokenizer.chat_template
    )
    teacher = LocalTeacher(model, tokenizer, "hf:x", "1", 512)
    system = [{"role": "system", "content": "Be brief."}, *messages(0)]
    replies = answers(teacher, [Request("bad", system, 5), Request("good", messages(0), 5)])
    assert replies["bad"].error.startswith(
        "The chat template of hf:x refuses a conversation: System role not supported."
    )
    assert replies["good"].error is None
    with pytest.raises(DlmError, match="refuses"):
        teacher.count_tokens(system)


def test_running_out_of_memory_costs_one_request(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    teacher = LocalTeacher(model, tokenizer, "hf:x", "1", None)
    requests = [Request(f"{i}", messages(i), 4) for i in range(9)]
    requests.insert(4, Request("long", pair_messages(" ".join(PROSE), 1), 4))
    longest = teacher.count_tokens(requests[4].messages)

    def little_memory(_: torch.nn.Module, arguments: tuple, named: dict) -> None:
        rows, length = named["input_ids"].shape
        if "attention_mask" in named:  # the cache counts too
            length = named["attention_mask"].shape[-1]
        if rows > 3 or length >= longest - 1:  # a single prompt is computed up to its last token first
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")

    expected = answers(teacher, requests)
    model.register_forward_pre_hook(little_memory, with_kwargs=True)
    replies = answers(teacher, requests)
    assert replies.pop("long").error == f"Out of memory for this prompt alone, of {longest} tokens."
    assert {key: (reply.text, reply.error) for key, reply in replies.items()} == {
        key: (reply.text, None) for key, reply in expected.items() if key != "long"
    }


def test_other_errors_of_the_model_are_raised(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("shapes do not match")

    model.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="shapes"):
        answers(LocalTeacher(model, tokenizer, "hf:x", "1", None), [Request("a", messages(0), 4)])


def test_without_requests(teacher: LocalTeacher) -> None:
    assert list(teacher.generate([])) == []


def test_a_tokenizer_without_a_chat_template_is_refused(model: PreTrainedModel, random_base: Path) -> None:
    tokenizer = load_tokenizer(str(random_base))
    tokenizer.chat_template = None
    with pytest.raises(DlmError, match="hf:x has no chat template") as caught:
        LocalTeacher(model, tokenizer, "hf:x", "1", 512)
    assert caught.value.kind == "ChatTemplateError"
