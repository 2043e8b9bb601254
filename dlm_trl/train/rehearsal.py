"""Rehearsal, against forgetting: stay close to the base on general texts while training on the notes.

    Rehearsal(weight=5.0, seed=0).attach(trainer)                                   # before train
    Rehearsal(5.0, seed=0, texts=pieces("general.txt", tokenizer)).attach(trainer)  # with your own texts

In every batch, the base (adapter off) and the model in training read a few texts, and their divergence,
KL(base ‖ model) averaged over tokens, is added to the loss. If you give no texts, the base writes some before the first
step, sampled at temperature 1 from the start token.

Sources: a network's old outputs as targets, Li and Hoiem, "Learning without Forgetting" (2016); self-written texts as a
stand-in for the old training data, Robins, "Catastrophic forgetting, rehearsal and pseudorehearsal" (1995).
Self-written texts only preserve what the base tends to write: the built-in base writes glossaries, and forgets prose
unless you give it prose.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import SFTTrainer

from dlm_trl.models.control_tokens import encode_text, encode_texts
from dlm_trl.models.divergence import Segment, at, hidden_states, last_hidden, next_tokens, token_kl
from dlm_trl.models.frozen import check_attachable, frozen
from dlm_trl.models.generate import generate, row_seed
from dlm_trl.models.sharding import whole_weights
from dlm_trl.models.tokenize import IGNORED
from dlm_trl.online.hooks import Batch, StepHook, add_hook

TEXTS = 256  # written by the base
TOKENS = 32  # at most, per text
ROWS = 8  # texts added to a batch


class Rehearsal(TrainerCallback, StepHook):
    """Adds weight × KL(base ‖ model), in nats per token, to the loss of each training batch of a stock SFTTrainer.

    The texts of a batch depend only on seed, step and the number of the batch in the step over all processes, so a
    resumed run equals an uninterrupted one, and two processes equal one. How many texts share a line depends on the
    batch's width: online synthesis groups its rows by length in each process, so with rows of more than twice `TOKENS`
    two processes may lay the same texts out differently. texts: token ids of at least `ROWS` texts; None lets the base
    write them.
    """

    def __init__(self, weight: float, seed: int, texts: Sequence[Sequence[int]] | None = None) -> None:
        self.weight = weight
        self.seed = seed
        self.texts = texts

    def attach(self, trainer: SFTTrainer) -> "Rehearsal":
        """Add it to a trainer. Raises AdapterError if switching the adapter off doesn't give the base back."""
        self._trainer, self._model = trainer, trainer.accelerator.unwrap_model(trainer.model)
        check_attachable(self._model)
        self._at = (-1, 0)  # the step, and the batch in it
        self._divergences: list[float] = []  # since the last line of the log
        add_hook(trainer, self)
        trainer.add_callback(self)
        return self

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.texts is not None:
            return
        tokenizer = self._trainer.processing_class
        first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        seeds = [row_seed(self.seed, "rehearsal", k) for k in range(TEXTS)]
        with whole_weights(self._trainer.model_wrapped), frozen(self._model) as base:
            texts = generate(base, tokenizer, [[first]] * TEXTS, TOKENS, temperature=1.0, seed=seeds)
        self.texts = [[first, *ids[:TOKENS]] for ids in encode_texts(tokenizer, texts)]

    def before_loss(self, inputs: Batch) -> Batch:
        """Adds texts to the batch, after the base has read them."""
        texts: Sequence[Sequence[int]] = self._chosen()
        if "attention_mask" in inputs:
            texts = as_wide(texts, inputs["input_ids"].shape[1])
        with frozen(self._model) as base:
            segments = [Segment(k, 0, len(text)) for k, text in enumerate(texts)]
            self._wanted = next_tokens(base, at(last_hidden(base, texts), segments))
        inputs, self._segments = beside(inputs, texts)
        return inputs

    @contextmanager
    def around_loss(self) -> Iterator[None]:
        """Keeps the hidden states of the forward pass."""
        with hidden_states(self._model) as seen:
            yield
        self._states = seen.pop()

    def after_loss(self, loss: Tensor, num_items_in_batch: Any) -> Tensor:
        states = at(self._states, self._segments)
        divergence = token_kl(self._model.get_base_model(), states, self._wanted).mean()
        del self._states, self._wanted  # as large as the batch: not to be kept until the next one
        self._divergences.append(divergence.item())
        # A loss that is averaged over all tokens of a step isn't divided by the number of batches any more.
        batches = 1 if num_items_in_batch is None else self._trainer.current_gradient_accumulation_steps
        return loss + self.weight * divergence / batches

    def _chosen(self) -> list[Sequence[int]]:
        step, batch = self._trainer.state.global_step, 0
        if self._at[0] == step:
            batch = self._at[1] + 1
        self._at = (step, batch)
        assert self.texts is not None  # since training began
        number = batch * self._trainer.args.world_size + self._trainer.args.process_index
        return random.Random(row_seed(self.seed, "rehearsal", step, number)).sample(list(self.texts), ROWS)

    def log_values(self) -> dict[str, float]:
        """The mean divergence since the last line, over all processes."""
        values, self._divergences = gather_object(self._divergences), []
        return {"rehearsal/kl": sum(values) / len(values)} if values else {}


def pieces(file: str | Path, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """A text file in pieces of `TOKENS` tokens. Raises ValueError if it can't be read or is too short."""
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"can't read {file}: {error}") from None
    tokens = encode_text(tokenizer, text)
    found = [tokens[at : at + TOKENS] for at in range(0, len(tokens) - TOKENS + 1, TOKENS)]
    if len(found) < ROWS:
        raise ValueError(f"{file} has {len(tokens)} tokens, and rehearsal needs {ROWS * TOKENS}")
    return found


def as_wide(texts: Sequence[Sequence[int]], width: int) -> list[list[int]]:
    """The texts in lines of about `width` tokens, each with as many texts as have room for the longest.

    Each text in a line of its own would be padded to the batch's width: with prose in it, half of the batch's work.
    """
    per_line = max(1, width // max(map(len, texts)))
    return [[*chain(*texts[start : start + per_line])] for start in range(0, len(texts), per_line)]


def beside(inputs: Mapping[str, Any], texts: Sequence[Sequence[int]]) -> tuple[dict[str, Any], list[Segment]]:
    """The batch with these texts added after its rows, without labels, and their positions.

    The batch is padded on the right, or padding-free (all rows in one line).
    """
    ids = inputs["input_ids"]
    lengths = [len(text) for text in texts]
    if "attention_mask" not in inputs:
        ends = torch.tensor([ids.shape[1], *lengths]).cumsum(0).tolist()
        more = {
            "input_ids": ids.new_tensor([token for text in texts for token in text])[None],
            "labels": ids.new_full((1, sum(lengths)), IGNORED),
            "position_ids": ids.new_tensor([place for length in lengths for place in range(length)])[None],
        }
        joined = {name: torch.cat([inputs[name], value], 1) for name, value in more.items()}
        return {**inputs, **joined}, [Segment(0, a, b) for a, b in pairwise(ends)]
    width = max(ids.shape[1], *lengths)
    rows = {
        "input_ids": ids.new_tensor([[*text, *[0] * (width - len(text))] for text in texts]),
        "labels": ids.new_full((len(texts), width), IGNORED),
        "attention_mask": ids.new_tensor([[1] * length + [0] * (width - length) for length in lengths]),
    }
    fill = {"input_ids": 0, "labels": IGNORED, "attention_mask": 0}
    wide = {name: pad(inputs[name], (0, width - ids.shape[1]), value=fill[name]) for name in rows}
    joined = {name: torch.cat([wide[name], value.to(wide[name].dtype)]) for name, value in rows.items()}
    return {**inputs, **joined}, [Segment(len(ids) + k, 0, length) for k, length in enumerate(lengths)]
