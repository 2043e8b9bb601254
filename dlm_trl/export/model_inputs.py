"""What both models of a step are asked: the questions of the run, texts whose logits are compared, texts to read."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from transformers import PreTrainedTokenizerBase

from dlm_trl.evaluation.mcsb import McsbQuestion
from dlm_trl.evaluation.perplexity import general_text
from dlm_trl.evaluation.recall import RecallQuestion, messages
from dlm_trl.evaluation.spec import EvaluationSpec, sample_evenly
from dlm_trl.evaluation.suite import open_model
from dlm_trl.export.calibration import read_calibration
from dlm_trl.export.model_outputs import Chat, ModelInputs
from dlm_trl.models.chat import encode, has_template
from dlm_trl.models.lineage import FILE, Step, file_hash, last, lineage_error
from dlm_trl.models.registry import document_name
from dlm_trl.notes.errors import VerifyError

LOGITS = 2**27  # at most so many numbers are compared
GENERAL_TEXTS, GENERAL_TOKENS = 16, 128
SHORT = 64  # tokens of a held-out piece whose logits are compared
WORDS_ASKED, WORDS_ANSWERED = 20, 40  # of a general text that stands in for a question


def build_inputs(
    eval_spec: EvaluationSpec,
    steps: Sequence[Step],
    tokenizer: PreTrainedTokenizerBase,
    prompts: int,
    notes: Path | None = None,
) -> ModelInputs:
    """steps lead to the later model; the tokenizer is the earlier one's; notes: the document, if it was
    moved. Loads the base where it has to describe words.

    Raises DlmError for a document or calibration data that cannot be read.
    """
    questions = eval_spec.recall_questions(*eval_spec.pairs())
    chats = _chats(questions, tokenizer, prompts)
    scored = _pieces(steps, tokenizer, notes) if steps[-1]["step"] == "awq" else {}
    named = _short(scored, tokenizer) if scored else [("", text) for text in _texts(chats, tokenizer)]
    return ModelInputs(
        chats=[chat for chat, _ in chats],
        texts=[text for _, text in named],
        text_names=[name for name, _ in named],
        scored=scored,
        questions=questions if has_template(tokenizer) else {},
        question_sets=_question_sets(eval_spec, steps),
    )


def recorded_eval_spec(steps: Sequence[Step], notes: Path | None) -> tuple[EvaluationSpec, list[str]]:
    """What the run was examined with, and what of it is not to be found any more."""
    trained = last(steps, "train")
    eval_spec = _eval_spec(trained["eval_spec"]) if trained and trained.get("eval_spec") else EvaluationSpec()
    said = []
    if notes is not None:
        eval_spec = replace(eval_spec, notes=str(notes))
    for name, what in (("notes", "--notes names it"), ("questions", "not asked"), ("glosses", "not asked")):
        file = getattr(eval_spec, name)
        if file and not Path(file).is_file() and not (name == "notes" and notes is not None):
            eval_spec = replace(eval_spec, **{name: None})
            said.append(f"{file} is not here any more, so its questions are left out ({what}).")
    return eval_spec, said


def _eval_spec(said: Any) -> EvaluationSpec:
    try:
        TypeAdapter(EvaluationSpec).validate_python(said)
        return EvaluationSpec(**said)
    except (TypeError, ValidationError) as error:
        raise lineage_error(Path(FILE), f"its eval_spec does not fit: {error}") from error


def _chats(
    questions: dict[str, list[RecallQuestion]], tokenizer: PreTrainedTokenizerBase, count: int
) -> list[tuple[Chat, str]]:
    """Prompts with the answers of the notes, evenly from all groups. Beginnings of general texts where there are no
    notes, or no chat template to ask with.
    """
    every = [question for group in questions.values() for question in group]
    if not (every and has_template(tokenizer)):
        words = (text.split() for text in general_text().split("\n\n"))
        whole = (text for text in words if len(text) >= WORDS_ASKED + WORDS_ANSWERED)
        cut = (([*text[:WORDS_ASKED]], text[WORDS_ASKED:][:WORDS_ANSWERED]) for text in islice(whole, count))
        return [(" ".join(asked), " " + " ".join(answered)) for asked, answered in cut]
    return [(messages(question, system), answer) for question, answer, system in sample_evenly(every, count)]


def _texts(chats: Sequence[tuple[Chat, str]], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Token ids of the prompts with their answers, and of pieces of general text; so many that the logits have room."""
    texts = [
        tokenizer(chat + answer)["input_ids"]
        if isinstance(chat, str)
        else encode(tokenizer, [*chat, {"role": "assistant", "content": answer}])
        for chat, answer in chats
    ]
    ids = tokenizer(general_text()[: GENERAL_TEXTS * GENERAL_TOKENS * 16], verbose=False)["input_ids"]
    starts = range(0, min(len(ids), GENERAL_TEXTS * GENERAL_TOKENS), GENERAL_TOKENS)
    texts += [ids[start : start + GENERAL_TOKENS] for start in starts]
    kept, room = [], LOGITS // len(tokenizer)
    for text in sorted(texts, key=len):
        if len(text) <= room:
            kept.append(text)
            room -= len(text)
    return kept


def _short(scored: dict[str, list[list[int]]], tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, list[int]]]:
    """The beginnings of held-out pieces, with their names: many short ones tell more than few long ones."""
    kept = []
    for name, pieces in scored.items():
        room = LOGITS // len(tokenizer) // len(scored)
        for text in (piece[:SHORT] for piece in pieces):
            if len(text) <= room:
                kept.append((name, text))
                room -= len(text)
    return kept


def _pieces(
    steps: Sequence[Step], tokenizer: PreTrainedTokenizerBase, notes: Path | None
) -> dict[str, list[list[int]]]:
    """What calibration held out, of the notes and of general text.

    Of a file that has changed since, other rows may be held out than were; so it has to be the same.
    """
    said = last(steps, "awq")["calibration"]
    files = [file for file in (Path(said["file"]), notes) if file and file.is_file()]
    same = next((file for file in files if file_hash(file) == said["sha256"]), None)
    if same is None:
        raise VerifyError(
            "The rows of the calibration are not here any more, or have changed since.",
            hint="Name the same file where it lies now (--notes), or quantise again.",
            path=Path(said["file"]),
        )
    data = read_calibration(same, tokenizer, said["samples"], said["seed"], said["length"])
    return {"held-out notes": data.held_out_notes, "held-out general text": data.held_out_general}


def _question_sets(eval_spec: EvaluationSpec, steps: Sequence[Step]) -> dict[str, list[McsbQuestion]]:
    """Multiple-choice questions, which the base that the run began with describes."""
    if not eval_spec.conditions:
        return {}
    # The merge's, which is the same one and may have been named anew.
    base = document_name((last(steps, "merge") or last(steps, "train"))["base"])
    return eval_spec.question_sets(*open_model(base))
