"""A merged model gets the right end tokens, and a config that fits its weights."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from dlm_trl.export.sidecar_files import generation_config, model_config, open_tokenizer
from dlm_trl.notes import DlmError

ROWS = 400
IDS = st.one_of(st.none(), st.integers(-2, 6), st.integers(ROWS - 2, ROWS + 2))


def written(folder: Path, **values: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "generation_config.json").write_text(json.dumps(values))
    return folder


@given(ends=st.one_of(IDS, st.lists(IDS.filter(lambda i: i is not None), max_size=4)), pad=IDS)
def test_end_tokens_exist_and_are_not_padding(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, ends: object, pad: int | None
) -> None:
    adapter = written(tmp_path / "adapter", eos_token_id=ends, pad_token_id=pad, temperature=0.7)
    config, notes = generation_config(adapter, tmp_path, tokenizer, ROWS)
    found = config["eos_token_id"] if isinstance(config["eos_token_id"], list) else [config["eos_token_id"]]
    assert tokenizer.eos_token_id in found
    assert all(0 <= end < ROWS for end in found)
    assert tokenizer.pad_token_id not in found
    assert config.get("pad_token_id") not in set(found) - {tokenizer.eos_token_id}
    assert config["temperature"] == 0.7
    before = ends if isinstance(ends, list) else [ends]
    assert bool(notes) == (set(before) != set(found))  # notes exactly if something changed


def test_an_end_token_that_also_pads_stays_an_end_token(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    end = tokenizer.eos_token_id  # like GPT-2
    config, notes = generation_config(written(tmp_path, eos_token_id=end, pad_token_id=end), tmp_path, tokenizer, ROWS)
    assert (config["eos_token_id"], config["pad_token_id"], notes) == (end, end, [])


def test_the_adapters_file_takes_precedence_over_the_bases(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    base = written(tmp_path / "base", eos_token_id=tokenizer.eos_token_id, top_k=3)
    adapter = tmp_path / "adapter"
    assert generation_config(adapter, base, tokenizer, ROWS)[0]["top_k"] == 3
    written(adapter, eos_token_id=[tokenizer.eos_token_id, 7], top_k=5)
    config, _ = generation_config(adapter, base, tokenizer, ROWS)
    assert (config["top_k"], config["eos_token_id"]) == (5, [tokenizer.eos_token_id, 7])
    (base / "generation_config.json").unlink()
    (adapter / "generation_config.json").unlink()
    assert generation_config(adapter, base, tokenizer, ROWS)[0]["eos_token_id"] == tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("file", "text", "kind"),
    [
        ("tokenizer.json", "[]", "TokenizerError"),
        ("tokenizer.json", "null", "TokenizerError"),
        ("tokenizer.json", "{}", "TokenizerError"),
        ("tokenizer_config.json", "[]", "TokenizerError"),
        ("tokenizer_config.json", "{", "TokenizerError"),
        ("chat_template.jinja", "{% for message in messages %}", "ChatTemplateError"),
    ],
)
def test_a_damaged_tokenizer_is_reported(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, file: str, text: str, kind: str
) -> None:
    tokenizer.save_pretrained(tmp_path)
    assert open_tokenizer(tmp_path).get_vocab() == tokenizer.get_vocab()
    (tmp_path / file).write_text(text)
    with pytest.raises(DlmError) as caught:
        open_tokenizer(tmp_path)
    assert (caught.value.kind, caught.value.path) == (kind, tmp_path)


def test_a_template_may_reject_a_conversation(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('a system message, please') }}")
    assert open_tokenizer(tmp_path).chat_template


@pytest.mark.parametrize(
    ("recorded", "requested", "dtype"),
    [
        ({"dtype": "bfloat16"}, None, "bfloat16"),
        ({"torch_dtype": "float16"}, None, "float16"),
        ({"torch_dtype": "float16"}, "bfloat16", "bfloat16"),
        ({}, None, "float32"),
    ],
)
def test_the_config_has_the_dtype_of_the_weights(
    tmp_path: Path, recorded: dict[str, str], requested: str | None, dtype: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "tie_word_embeddings": True} | recorded))
    config = model_config(tmp_path, "LlamaForCausalLM", "float32", requested, untie=False)
    assert config == {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "dtype": dtype,
        "tie_word_embeddings": True,
    }
    assert not model_config(tmp_path, "LlamaForCausalLM", "float32", requested, untie=True)["tie_word_embeddings"]
