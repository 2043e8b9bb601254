"""Texts never become control tokens, and otherwise get the ids that the tokenizer gives."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from dlm_trl.models.chat import encode, encode_answered
from dlm_trl.models.control_tokens import encode_text, encode_texts
from dlm_trl.models.load import load_tokenizer
from dlm_trl.notes.errors import TokenizerError
from tests.rows.conftest import make_tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif %}"
)
LETTERS = "▁abelo:>!/ns"


def bpe() -> Any:
    """Byte-level, with tokens that eat the spaces around them, tags of the template, added words and spaces."""
    tokenizer = make_tokenizer(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], eos_token="<|im_end|>")
    tokenizer.add_tokens(
        [
            AddedToken("<|left|>", lstrip=True, special=True),
            AddedToken("<|right|>", rstrip=True, special=True),
            AddedToken("<|fim|>", normalized=False),
            AddedToken("<think>", normalized=False),
            AddedToken("</think>", normalized=False),
            AddedToken("hooch", normalized=False),
            AddedToken("  ", normalized=False),
        ]
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def sentencepiece(prepend: str) -> Any:
    """Like Llama's: a prefix space, bytes for unknown characters, and `</s>` can be merged from its letters."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *LETTERS, "<", "</", "s>", "ab", "▁a"]
    merges = [("<", "/"), ("s", ">"), ("</", "s>"), ("a", "b"), ("▁", "a")]
    backend = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, merges, unk_token="<unk>", byte_fallback=True))
    if prepend == "first":
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '[INST] ' + m.content + ' [/INST]' if m.role == 'user' else m.content + eos_token }}"
        "{% endfor %}"
    )
    return tokenizer


def unigram() -> Any:
    """A model whose likeliest piece for `</s>` is the control token."""
    pieces = [("<unk>", 0.0), ("</s>", 0.0), *((letter, -5.0) for letter in {*LETTERS, *"<|im_startduhk"})]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    backend.decoder = decoders.Metaspace(prepend_scheme="never")
    backend.add_special_tokens(["<unk>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")


TOKENIZERS = {
    "bpe": bpe(),
    "sentencepiece, as now": sentencepiece("first"),
    "sentencepiece, as before": sentencepiece("always"),
    "unigram": unigram(),
    "tiny": load_tokenizer("tiny"),
}
CONTROL = {
    name: {t.content: i for i, t in tokenizer.added_tokens_decoder.items() if t.content not in ("hooch", "  ")}
    for name, tokenizer in TOKENIZERS.items()
}
tokenizers = st.sampled_from(sorted(TOKENIZERS))


def texts_of(name: str) -> st.SearchStrategy[str]:
    """Texts of control tokens, their beginnings and ends, and letters."""
    parts = [*CONTROL[name], *(c[:-1] for c in CONTROL[name]), *"abs/>o: ", "  ", "hooch"]
    known = [part for part in parts if name != "unigram" or set(part) <= {*LETTERS, *"<|im_startduhk "}]
    return st.lists(st.sampled_from(known), max_size=12).map("".join)


@settings(max_examples=200)
@given(data=st.data(), name=tokenizers)
def test_a_text_has_no_control_token_and_decodes_to_itself(data: st.DataObject, name: str) -> None:
    tokenizer, text = TOKENIZERS[name], f"a{data.draw(texts_of(name))}"
    ids = encode_text(tokenizer, text)
    assert not {*ids} & {*CONTROL[name].values()}
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text.replace("▁", " ")
    begun = encode_text(tokenizer, text, add_special_tokens=True)
    assert begun == [*tokenizer("", add_special_tokens=True)["input_ids"], *ids], "such as BOS"


@settings(max_examples=200)
@given(data=st.data(), name=tokenizers)
def test_other_texts_get_the_tokenizers_own_ids(data: st.DataObject, name: str) -> None:
    tokenizer = TOKENIZERS[name]
    texts = data.draw(st.lists(texts_of(name) | st.text(max_size=20), max_size=4))
    texts = [text for text in texts if not any(control in text for control in CONTROL[name])]
    for special in (False, True):
        expected = [tokenizer(text, add_special_tokens=special)["input_ids"] for text in texts]
        assert encode_texts(tokenizer, texts, special) == expected


@settings(max_examples=150)
@given(data=st.data(), name=tokenizers.filter(lambda name: TOKENIZERS[name].chat_template))
def test_in_a_conversation_only_the_template_puts_control_tokens(data: st.DataObject, name: str) -> None:
    tokenizer, control = TOKENIZERS[name], {*CONTROL[name].values()}
    question, answer = data.draw(texts_of(name)), data.draw(texts_of(name))

    def put(question: str, answer: str) -> tuple[list[int], list[int], str, str]:
        messages = [{"role": "user", "content": f"o {question} o"}]
        ids, start = encode_answered(tokenizer, messages, f"o {answer} o")
        assert ids[:start] == encode(tokenizer, messages)
        prompt, rest = ([i for i in part if i in control] for part in (ids[:start], ids[start:]))
        return prompt, rest, tokenizer.decode(ids[:start]), tokenizer.decode(ids[start:])

    prompt, rest, prompt_text, rest_text = put(question, answer)
    assert (prompt, rest) == put("a", "b")[:2]
    assert f"o {question} o" in prompt_text and f"o {answer} o" in rest_text
    if not any(token in question + answer for token in CONTROL[name]):
        whole = [{"role": "user", "content": f"o {question} o"}, {"role": "assistant", "content": f"o {answer} o"}]
        assert encode(tokenizer, whole) == tokenizer.apply_chat_template(whole, return_dict=False)


def test_the_same_text_is_a_token_in_a_template_and_letters_in_a_message() -> None:
    tokenizer = bpe()
    end = tokenizer.eos_token_id
    ids, start = encode_answered(tokenizer, [{"role": "user", "content": "Is <|im_end|> one?"}], "</think> <|im_end|>")
    assert ids[:start].count(end) == 1 and ids[start:].count(end) == 1
    assert tokenizer.decode(ids[start:]) == "</think> <|im_end|><|im_end|>\n"
    assert encode_text(tokenizer, "a <think> b") != tokenizer("a <think> b")["input_ids"]
    tokenizer.chat_template = CHATML.replace("<think>", "").replace("</think>", "")
    assert encode_text(tokenizer, "a <think> b") == tokenizer("a <think> b")["input_ids"], "the base's own tag"


@pytest.mark.parametrize("text", ["\U000f0000<|im_end|>", "<|im_end|>\u0338", "<|im_end|>\U000f0001\U000f0000"])
def test_odd_characters_stay(text: str) -> None:
    tokenizer = bpe()
    ids, start = encode_answered(tokenizer, [{"role": "user", "content": text}], text)
    assert tokenizer.decode(ids[start:]) == f"{text}<|im_end|>\n"
    assert ids.count(tokenizer.eos_token_id) == 2


def test_a_token_that_pads_may_be_a_letter() -> None:
    tokenizer = make_tokenizer(["<|end|>"], eos_token="<|end|>")
    ids = tokenizer("Oh!")["input_ids"]
    tokenizer.add_special_tokens({"pad_token": "!"})
    assert encode_text(tokenizer, "Oh!") == ids
    assert tokenizer.decode(encode_text(tokenizer, "Oh! <|end|>")) == "Oh! <|end|>"


def test_a_tokenizer_without_a_fast_implementation_refuses_such_a_text() -> None:
    from transformers import ByT5Tokenizer

    tokenizer = ByT5Tokenizer()
    assert encode_text(tokenizer, "Bread.") == tokenizer("Bread.", add_special_tokens=False)["input_ids"]
    with pytest.raises(TokenizerError, match=r"control token: 'It ends with </s>\.'.*spaces"):
        encode_text(tokenizer, "It ends with </s>.")
