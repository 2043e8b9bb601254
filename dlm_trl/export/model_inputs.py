"""The inputs that a check feeds to both models: questions of the run, texts to compare logits on, texts to score."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from dlm_trl.evaluation.mcsb import McsbQuestion
from dlm_trl.evaluation.perplexity import general_text
from dlm_trl.evaluation.recall import RecallQuestion, messages
from dlm_trl.evaluation.spec import EvaluationSpec, sample_evenly
from dlm_trl.export.calibration import read_calibration
from dlm_trl.export.model_outputs import Chat, ModelInputs
from dlm_trl.models.chat import encode, has_template
from dlm_trl.models.control_tokens import encode_text
from dlm_trl.models.lineage import FILE, Step, file_hash, last, lineage_error
from dlm_trl.models.load import load_for_inference
from dlm_trl.models.registry import ModelRef
from dlm_trl.notes.errors import VerifyError

MAX_LOGITS = 2**27  # numbers to compare, at most
GENERAL_TEXTS, GENERAL_TOKENS = 16, 128
HELD_OUT_TOKENS = 64  # compared at the beginning of each held-out text: many short ones test better than few long ones
PROMPT_WORDS, ANSWER_WORDS = 20, 40  # of a general text that stands in for a question


def build_inputs(
    eval_spec: EvaluationSpec,
    records: Sequence[Step],
    tokenizer: PreTrainedTokenizerBase,
    prompts: int,
    notes: Path | None = None,
) -> ModelInputs:
    """The inputs for checking the last of these records.

    tokenizer: the one before that step. prompts: how many to answer greedily. notes: where the document is now, if it
    was moved. Loads the base if it has to describe words. Raises DlmError for a document or calibration data that can't
    be read.
    """
    document = eval_spec.read_document()
    questions = eval_spec.notes_questions(*eval_spec.pairs(document), document).groups
    chats = _chats(questions, tokenizer, prompts)
    held_out = _held_out_texts(records[-1]["calibration"], tokenizer, notes) if "calibration" in records[-1] else {}
    named = _beginnings(held_out, tokenizer) if held_out else [("", text) for text in _texts(chats, tokenizer)]
    return ModelInputs(
        chats=[chat for chat, _ in chats],
        texts=[text for _, text in named],
        text_names=[name for name, _ in named],
        scored=held_out,
        questions=questions if has_template(tokenizer) else {},
        question_sets=_question_sets(eval_spec, records),
    )


def recorded_eval_spec(records: Sequence[Step], notes: Path | None) -> tuple[EvaluationSpec, list[str]]:
    """How the run was evaluated, and a remark for each file of it that no longer exists.

    notes: the document to use instead of the recorded one.
    """
    trained = last(records, "train")
    eval_spec = _eval_spec(trained["eval_spec"]) if trained and trained.get("eval_spec") else EvaluationSpec()
    remarks = []
    if notes is not None:
        eval_spec = replace(eval_spec, notes=str(notes))
    elif _is_missing(eval_spec.notes):
        remarks.append(f"{eval_spec.notes} no longer exists, so its questions are left out. If it moved, give --notes.")
        eval_spec = replace(eval_spec, notes=None)
    for file in (eval_spec.questions, eval_spec.glosses):
        if _is_missing(file):
            remarks.append(f"{file} no longer exists, so its questions are left out.")
    return replace(
        eval_spec,
        questions=None if _is_missing(eval_spec.questions) else eval_spec.questions,
        glosses=None if _is_missing(eval_spec.glosses) else eval_spec.glosses,
    ), remarks


def _is_missing(file: str | None) -> bool:
    return bool(file) and not Path(str(file)).is_file()


def _eval_spec(recorded: Any) -> EvaluationSpec:
    try:
        return EvaluationSpec.from_record(recorded)
    except ValueError as error:
        raise lineage_error(Path(FILE), f"its eval_spec is invalid: {error}") from error


def _chats(
    questions: Mapping[str, Sequence[RecallQuestion]], tokenizer: PreTrainedTokenizerBase, count: int
) -> list[tuple[Chat, str]]:
    """Prompts with the answers of the notes, evenly from all groups.

    Without notes, or without a chat template: beginnings of general texts with their continuations.
    """
    every = [question for group in questions.values() for question in group]
    if every and has_template(tokenizer):
        return [(messages(question, system), answer) for question, answer, system in sample_evenly(every, count)]
    paragraphs = (text.split() for text in general_text().split("\n\n"))
    long_enough = (words for words in paragraphs if len(words) >= PROMPT_WORDS + ANSWER_WORDS)
    return [
        (" ".join(words[:PROMPT_WORDS]), " " + " ".join(words[PROMPT_WORDS:][:ANSWER_WORDS]))
        for words in islice(long_enough, count)
    ]


def _texts(chats: Sequence[tuple[Chat, str]], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Token ids of the prompts with their answers and of general text, the shortest first, up to MAX_LOGITS."""
    texts = [
        encode_text(tokenizer, chat + answer, add_special_tokens=True)
        if isinstance(chat, str)
        else encode(tokenizer, [*chat, {"role": "assistant", "content": answer}])
        for chat, answer in chats
    ]
    ids = encode_text(tokenizer, general_text()[: GENERAL_TEXTS * GENERAL_TOKENS * 16], add_special_tokens=True)
    starts = range(0, min(len(ids), GENERAL_TEXTS * GENERAL_TOKENS), GENERAL_TOKENS)
    texts += [ids[start : start + GENERAL_TOKENS] for start in starts]
    kept, room = [], MAX_LOGITS // len(tokenizer)
    for text in sorted(texts, key=len):
        if len(text) <= room:
            kept.append(text)
            room -= len(text)
    return kept


def _beginnings(
    held_out: dict[str, list[list[int]]], tokenizer: PreTrainedTokenizerBase
) -> list[tuple[str, list[int]]]:
    """The beginnings of held-out texts with their names, up to MAX_LOGITS."""
    kept = []
    for name, texts in held_out.items():
        room = MAX_LOGITS // len(tokenizer) // len(held_out)
        for text in (text[:HELD_OUT_TOKENS] for text in texts):
            if len(text) <= room:
                kept.append((name, text))
                room -= len(text)
    return kept


def _held_out_texts(
    calibration: dict[str, Any], tokenizer: PreTrainedTokenizerBase, notes: Path | None
) -> dict[str, list[list[int]]]:
    """The texts that calibration held out, of the notes and of general text.

    The file must be unchanged: from another one, other rows would be held out.
    """
    files = [file for file in (Path(calibration["file"]), notes) if file and file.is_file()]
    unchanged = next((file for file in files if file_hash(file) == calibration["sha256"]), None)
    if unchanged is None:
        raise VerifyError(
            "The calibration rows are gone, or have changed since.",
            hint="If the file moved, give it with --notes; else quantise again.",
            path=Path(calibration["file"]),
        )
    data = read_calibration(unchanged, tokenizer, calibration["samples"], calibration["seed"], calibration["length"])
    return {"held-out notes": data.held_out_notes, "held-out general text": data.held_out_general}


def _question_sets(eval_spec: EvaluationSpec, records: Sequence[Step]) -> dict[str, list[McsbQuestion]]:
    """Multiple-choice questions; the base of the run describes their words."""
    trained = last(records, "merge") or last(records, "train")  # the merge may record a new name for the same base
    if not eval_spec.conditions or trained is None:
        return {}
    return eval_spec.question_sets(*load_for_inference(ModelRef.from_record(trained["base"]).name))
