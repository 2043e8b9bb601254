"""Answers generated in batches equal those generated one by one."""

from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.export.model_outputs import ModelInputs, _answers

CHATS = ["What lifts", "A", "Who bakes the bread? The baker", "Kneading is pressing and folding a dough until", "B?"]


def test_answers_in_a_batch_equal_single_ones(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    model.eval()
    ends = [tokenizer.eos_token_id, *range(340, 360)]  # enough that some answers end, but not all
    model.generation_config.eos_token_id = ends
    expected = []
    for chat in CHATS:
        ids = tokenizer(chat, return_tensors="pt")["input_ids"]
        new: list[int] = []
        while len(new) < 20 and not (new and new[-1] in ends):
            with torch.no_grad():
                rows = torch.cat([ids, torch.tensor([new], dtype=torch.long)], 1)
                new.append(int(model(rows).logits[0, -1].argmax()))
        ended = new[-1] in ends
        text = tokenizer.decode(new[:-1] if ended else new, skip_special_tokens=True).strip()
        expected.append({"text": text, "ended": ended})
    assert {answer["ended"] for answer in expected} == {True, False}
    assert _answers(model, tokenizer, ModelInputs(chats=CHATS, new_tokens=20), tmp_path) == expected


def test_models_whose_logits_differ_by_rounding_give_the_same_answers_where_tokens_are_tied(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    model.eval()
    head = model.get_output_embeddings().weight
    with torch.no_grad():
        head[200:] = head[:200].repeat(2, 1)[: len(head) - 200]  # every token is tied with another one
    inputs = ModelInputs(chats=CHATS, new_tokens=20)
    before = _answers(model, tokenizer, inputs, tmp_path)
    plain = [_plain_greedy(model, tokenizer, chat) for chat in CHATS]
    torch.manual_seed(2)
    with torch.no_grad():
        head += 1e-6 * torch.randn_like(head)
    assert _answers(model, tokenizer, inputs, tmp_path) == before
    assert [_plain_greedy(model, tokenizer, chat) for chat in CHATS] != plain


def _plain_greedy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, chat: str) -> list[int]:
    ids = tokenizer(chat, return_tensors="pt")
    return model.generate(**ids, do_sample=False, max_new_tokens=20)[0].tolist()
