"""Fresh rows inside the steps of a stock SFTTrainer: `OnlineSynthesisCallback(task, seed=0).attach(trainer)`.

    trainer = SFTTrainer(model, args, train_dataset=placeholder(args), peft_config=LoraConfig(), …)
    OnlineSynthesisCallback(Mcsb(tokenizer), seed=0).attach(trainer)                    # synthetic rows only
    OnlineSynthesisCallback(task, seed=0, synthetic_fraction=0.25).attach(trainer)      # mixed with the dataset
    trainer.train()

The rows are written when the trainer asks for the batches of a whole step (`get_batch_samples`), so the loss is
normalised over the tokens that are really trained on. Evaluation doesn't change.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

from accelerate.utils import gather_object
from datasets import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import SFTTrainer

from dlm_trl.models.frozen import check_attachable
from dlm_trl.models.generate import row_seed
from dlm_trl.models.load import context_length
from dlm_trl.models.sharding import whole_weights
from dlm_trl.models.tokenize import IGNORED
from dlm_trl.notes.errors import UsageError
from dlm_trl.notes.files import replace_file
from dlm_trl.notes.journal import append
from dlm_trl.online.authors import AskedTeacher, Author, FrozenBase
from dlm_trl.online.curriculum import Curriculum
from dlm_trl.online.distillation import Distillation
from dlm_trl.online.encode import Encoded, encode, rows_of, with_context
from dlm_trl.online.hooks import Batch, Fetch, StepHook, add_hook
from dlm_trl.online.predictions import Place, reading
from dlm_trl.online.rows import ATTEMPTS, Draft, Written, write_rows
from dlm_trl.tasks.protocol import Example, Reject, Task
from dlm_trl.teachers.protocol import Teacher

logger = logging.getLogger(__name__)

STATE = "online_synthesis"  # the curriculum's key in the TrainerState
Key = tuple[int, int, tuple[int, ...]]  # step, stage of the curriculum, indices of the rows
Features = dict[str, list[int]]  # input_ids and labels of a row
_PLACES = "online_places"  # key in a batch: the places of its synthetic rows


class _Step(NamedTuple):
    """What one process knows about a step after training on it."""

    examples: list[Example]
    predictions: list[str]
    rejects: Counter[str]
    new_tokens: int
    share: float  # of the step's time that was spent waiting for rows


def placeholder(args: TrainingArguments) -> Dataset:
    """A dataset for a run on synthetic rows only: as many rows as the run needs, never read.

    Packing would merge them: give SFTConfig `dataset_kwargs={"skip_prepare_dataset": True}`. Raises UsageError if
    `max_steps` isn't set.
    """
    if args.max_steps <= 0:
        raise UsageError(
            "A run on synthetic rows only never ends by itself.",
            hint="Set max_steps.",
        )
    rows = args.max_steps * args.gradient_accumulation_steps * args.train_batch_size * args.world_size
    return Dataset.from_dict({"input_ids": [[0, 0]] * rows, "labels": [[IGNORED, 0]] * rows})


class OnlineSynthesisCallback(TrainerCallback, StepHook):
    """Writes a task's rows right before each step, trains on them, and logs metrics.

    task: a `Task`, or a `Curriculum` of tasks. teacher: who writes, the frozen base ("base") or any teacher; a teacher
    writes the next step's rows while this step trains. synthetic_fraction: the share of each batch that is synthetic;
    such rows replace rows of the trainer's dataset, which stay if no row could be written in `attempts` attempts. With
    1.0 the dataset isn't read; rows that couldn't be written are missing then, and a batch without rows has no loss.
    distillation: an attached `Distillation`; rows whose example has a context are then trained by its objective.
    log_file: "rows.jsonl" becomes "rows-<rank>.jsonl", one line per draft; the default is "online_rows.jsonl" in the
    output folder.

    Raises UsageError for a fraction outside (0, 1].
    """

    def __init__(
        self,
        task: Task | Curriculum,
        *,
        seed: int,
        synthetic_fraction: float = 1.0,
        log_file: str | Path | None = None,
        teacher: Literal["base"] | Teacher = "base",
        attempts: int = ATTEMPTS,
        distillation: Distillation | None = None,
    ) -> None:
        if not 0 < synthetic_fraction <= 1:
            raise UsageError(
                f"synthetic_fraction is {synthetic_fraction}.",
                hint="It must be above 0 and at most 1; without synthetic rows, leave the callback out.",
            )
        self.curriculum = task if isinstance(task, Curriculum) else Curriculum([task])
        self.seed = seed
        self.fraction = synthetic_fraction
        self.log_file = log_file
        self.teacher = teacher
        self.attempts = attempts
        self.distillation = distillation
        self.samples: list[Draft] = []  # the first rows of the last step
        self._first_state = self.curriculum.state_dict()

    def attach(self, trainer: SFTTrainer) -> OnlineSynthesisCallback:
        """Add it to a trainer, before `train`. Raises AdapterError if the adapter can't be switched off cleanly."""
        args = trainer.args
        model = trainer.accelerator.unwrap_model(trainer.model)
        check_attachable(model)
        self._trainer, self._model, self._tokenizer = trainer, model, trainer.processing_class
        if self.teacher == "base":
            self._author: Author = FrozenBase(model, self._tokenizer)
            self._ahead = None
        else:
            self._author = AskedTeacher(self.teacher)
            self._ahead = ThreadPoolExecutor(1)
        self._asked: tuple[Key, Future[Written]] | None = None
        path = Path(self.log_file or Path(args.output_dir) / "online_rows.jsonl")
        self._log_path = path.with_name(f"{path.stem}-{args.process_index}{path.suffix}")
        self._steps: list[dict[str, float]] = []  # since the last log line
        self._batch_places: list[Place] = []  # of the batch whose loss is being computed
        add_hook(trainer, self)
        trainer.add_callback(self)
        return self

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # Not by `restore_callback_states_from_checkpoint`: it would create a new callback that isn't attached.
        self.curriculum.load_state_dict(state.stateful_callbacks.get(STATE, self._first_state))
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        kept: list[str] = []
        if state.global_step and self._log_path.exists():  # the steps after the checkpoint are repeated
            lines = self._log_path.read_text("utf-8").split("\n")
            kept = [f"{line}\n" for line in lines[:-1] if json.loads(line)["step"] < state.global_step]
        replace_file(self._log_path, "".join(kept).encode())

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        share = self._waited / (time.perf_counter() - self._began)
        mine = _Step(self._examples, self._predictions, self._rejects, self._new_tokens, share)
        steps = [_Step(*step) for step in gather_object([tuple(mine)])]
        task = self.curriculum.task
        examples = [example for step in steps for example in step.examples]
        metrics = task.metrics(examples, [text for step in steps for text in step.predictions])
        rejects = sum((step.rejects for step in steps), Counter())
        self._steps.append(
            {
                **metrics,
                "rows": len(examples),
                "new_tokens": sum(step.new_tokens for step in steps),
                "generation_share": sum(step.share for step in steps) / len(steps),
                **({"stage": self.curriculum.stage + 1} if len(self.curriculum.stages) > 1 else {}),
                **{f"rejected/{reason}": count for reason, count in rejects.items()},
            }
        )
        if self.curriculum.observe(metrics):
            logger.info("step %d: stage %d of the curriculum begins", state.global_step, self.curriculum.stage + 1)
        state.stateful_callbacks[STATE] = self.curriculum.state_dict()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._asked:
            self._asked[1].cancel()
            self._asked = None

    def batches(
        self, fetch: Fetch, epoch_iterator: Iterator[Any], num_batches: int, device: Any
    ) -> tuple[list[Batch], Any]:
        trainer, args = self._trainer, self._trainer.args
        self._began = time.perf_counter()
        own: list[list[Features | None]]  # of each batch: the document's rows, None for a place that a task fills
        wide = args.train_batch_size
        if self.fraction == 1:
            own = [[None] * wide for _ in range(num_batches)]
            sizes = [[wide] * num_batches] * args.world_size
        else:  # packed and balanced batches have different numbers of rows
            own = [[*rows_of(batch)] for batch in fetch(epoch_iterator, num_batches, device)[0]]
            sizes = gather_object([[len(rows) for rows in own]])
        places = _places(sizes, args.process_index)
        step = trainer.state.global_step
        asking = time.perf_counter()
        drafts, self._new_tokens = self._written(step, [index for batch in places for index in batch])
        self._waited = time.perf_counter() - asking
        if self.fraction == 1:  # the step's loss is one sum, so rows may be grouped by length: less padding
            drafts = sorted(drafts, key=_length)
            order = dict.fromkeys(draft.index for draft in drafts if draft.encoded)
            every = [*order, *(index for index in chain.from_iterable(places) if index not in order)]
            places = [every[start : start + wide] for start in range(0, len(every), wide)]
        rows = {draft.index: draft for draft in drafts if draft.encoded}
        if self.distillation:
            found = [draft.encoded for draft in rows.values() if draft.encoded and draft.encoded.context]
            self.distillation.expect({tuple(encoded.input_ids): encoded.context for encoded in found})
        self._rejects = Counter(draft.outcome.reason for draft in drafts if isinstance(draft.outcome, Reject))
        self.samples = list(rows.values())[:3]
        self._examples: list[Example] = []
        self._predictions: list[str] = []
        records = [draft.record(self.curriculum.task, step) for draft in drafts]
        append(self._log_path, records, sync=False, ensure_ascii=False)
        batches = [
            self._collate([rows.get(index, row) for index, row in zip(indices, batch, strict=True)])
            for indices, batch in zip(places, own, strict=True)
        ]
        return batches, trainer._get_num_items_in_batch(batches, device)

    def _written(self, step: int, slots: Sequence[int]) -> Written:
        """The rows for the synthetic places of a step; a teacher starts on those of the next step."""
        key, write = self._wanted(step, slots)
        if self._ahead is None:
            with whole_weights(self._trainer.model_wrapped) if self.curriculum.task.max_new_tokens else nullcontext():
                return write()
        if self._asked is None or self._asked[0] != key:
            self._asked = key, self._ahead.submit(write)
        written = self._asked[1].result()
        self._asked = None
        if step + 1 < self._trainer.state.max_steps:
            key, write = self._wanted(step + 1, slots)
            self._asked = key, self._ahead.submit(write)
        return written

    def _wanted(self, step: int, slots: Sequence[int]) -> tuple[Key, Callable[[], Written]]:
        """What the rows of a step depend on, and the function that writes them."""
        # Systematic sampling: among any n consecutive places, fraction × n are synthetic, give or take one.
        offset = row_seed(self.seed, step, "places") / 2**64
        share = self.fraction
        indices = [i for i in slots if math.floor(offset + (i + 1) * share) > math.floor(offset + i * share)]
        write = partial(
            write_rows,
            self.curriculum.task,
            self._author,
            self._encode,
            seed=self.seed,
            step=step,
            indices=indices,
            attempts=self.attempts,
        )
        return (step, self.curriculum.stage, tuple(indices)), write

    def _encode(self, example: Example) -> Encoded | Reject:
        encoded = encode(example, self._tokenizer, self._trainer.args.max_length)
        if self.distillation is None or isinstance(encoded, Reject):
            return encoded
        return with_context(encoded, example, self._tokenizer, context_length(self._model.config))

    def _collate(self, rows: Sequence[Draft | Features | None]) -> dict[str, Any]:
        """The batch of these rows with the places of the synthetic ones. Never empty: other processes would wait."""
        present = [row for row in rows if row is not None]
        features: list[Features] = []
        for row in present:
            features.append(_encoded(row).row if isinstance(row, Draft) else row)
        batch = self._trainer.data_collator(features or [{"input_ids": [0, 0], "labels": [IGNORED, IGNORED]}])
        places, start = [], 0
        for line, row in enumerate(present):
            if isinstance(row, Draft) and isinstance(row.outcome, Example):
                at = (line, 0) if "attention_mask" in batch else (0, start)
                places.append(Place(*at, row.outcome, _encoded(row)))
            start += len(features[line]["input_ids"])
        return {**batch, _PLACES: places}

    def before_loss(self, inputs: Batch) -> Batch:
        """Takes the places of the synthetic rows out of the batch: the model doesn't know them."""
        self._batch_places = inputs[_PLACES]
        return {name: value for name, value in inputs.items() if name != _PLACES}

    @contextmanager
    def around_loss(self) -> Iterator[None]:
        """Reads what the model answers to the synthetic rows."""
        with reading(self._model, self._tokenizer, self._batch_places) as predictions:
            yield
        self._examples += [place.example for place in self._batch_places]
        self._predictions += predictions

    def log_values(self) -> dict[str, float]:
        """Means over the steps since the last line."""
        means = {}
        for name in sorted({name for step in self._steps for name in step}):
            values = [step[name] for step in self._steps if name in step]
            # A reason that didn't come up in a step came up zero times; a metric that is missing had no value.
            means[f"online/{name}"] = sum(values) / len(self._steps if name.startswith("rejected/") else values)
        if self._steps:
            for draft in self.samples:
                logger.info("row %d: %s", draft.index, draft.outcome)
        self._steps = []
        return means


def _places(sizes: Sequence[Sequence[int]], process: int) -> list[list[int]]:
    """For each batch of this process, the indices of its rows in the global batch.

    sizes: the number of rows of each batch, by process. The trainer gives batches to the processes in turn.
    """
    dealt = [(k, rank) for k in range(max(map(len, sizes))) for rank in range(len(sizes)) if k < len(sizes[rank])]
    ends = list(accumulate(sizes[rank][k] for k, rank in dealt))
    return [
        list(range(end - sizes[rank][k], end)) for (k, rank), end in zip(dealt, ends, strict=True) if rank == process
    ]


def _encoded(draft: Draft) -> Encoded:
    assert draft.encoded is not None  # rejected drafts are left out before
    return draft.encoded


def _length(draft: Draft) -> tuple[int, int]:
    return len(draft.encoded.input_ids) if draft.encoded else 0, draft.index
