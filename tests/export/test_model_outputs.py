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
