"""The rows of a run: read from the document once, split, tokenized and mixed."""

from collections import Counter
from dataclasses import dataclass, field, replace

from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedTokenizerBase

from dlm_trl.evaluation.spec import EvaluationSpec, NotesQuestions
from dlm_trl.models.tokenize import TokenReport, tokenize
from dlm_trl.notes import Document
from dlm_trl.notes.errors import NoRowsError
from dlm_trl.notes.escape import redact
from dlm_trl.rows.parsed import parsed_rows
from dlm_trl.rows.split import split
from dlm_trl.rows.views import view_rows, views_path
from dlm_trl.train.arguments import NotesArguments


@dataclass(frozen=True)
class Rows:
    """The document's rows before tokenization; None where it has no rows of that kind.

    questions: what to ask before and after training. book: all prose, trained on or not, for the open-book baseline; it
    never contains pairs. passages: the document with the prose that a task may ask about, which excludes held-out
    prose. views: prose views of trained prose, which a teacher wrote.
    """

    pairs: Dataset | None = None
    held_out_pairs: Dataset | None = None
    prose: Dataset | None = None
    held_out_prose: Dataset | None = None
    views: Dataset | None = None
    questions: NotesQuestions = field(default_factory=NotesQuestions)
    book: tuple[str, ...] = ()
    passages: Document | None = None

    def parts(self) -> list[Dataset]:
        """The rows to train on: pairs, prose and views, as far as there are any."""
        return [part for part in (self.pairs, self.prose, self.views) if part is not None]

    def provenance(self) -> dict[str, int]:
        """Rows to train on by author: "human" or the teacher of a synthesised pair; prose and views have their own."""
        counts: Counter[str] = Counter()
        if self.pairs is not None:
            counts.update(redact(teacher) if teacher else "human" for teacher in self.pairs["teacher"])
        if self.prose is not None:
            counts["prose"] = len(self.prose)
        if self.views is not None:
            counts["views"] = len(self.views)
        return dict(counts)

    def synthetic(self) -> dict[str, int]:
        """Rows to train on that a teacher wrote, pairs and views, by teacher."""
        counts: Counter[str] = Counter()
        for part in filter(None, (self.pairs, self.views)):
            counts.update(redact(teacher) for teacher in part["teacher"] if teacher)
        return dict(counts)


@dataclass(frozen=True)
class Tokens:
    """Sequences for the trainer; None without rows.

    reports: what became of the rows, by kind ("pairs", "prose", "views").
    """

    train: Dataset | None
    validation: Dataset | None
    reports: dict[str, TokenReport]

    def shares(self) -> dict[str, float]:
        """Each kind's share of the tokens in the loss."""
        total = sum(report.trained_tokens for report in self.reports.values())
        return {kind: report.trained_tokens / total for kind, report in self.reports.items()}


def read_rows(document: Document | None, notes: NotesArguments, spec: EvaluationSpec) -> Rows:
    """Every row of the document that the run trains on or measures.

    Prose views are trained if their prose isn't held out, also without the prose itself. Raises DlmError for malformed
    sections, sources that can't be read, and a damaged file of views.
    """
    if document is None:
        return Rows()
    every = parsed_rows(document, "prose", notes.adapter_name, notes.expand_sources)
    learned = held_out = views = None
    has_views = notes.views > 0 and views_path(document).exists()
    if every is not None and (notes.prose or has_views):
        parts = split(every, spec.validation_fraction, spec.seed, spec.split_method)
        if notes.prose:
            learned, held_out = parts["train"] or None, parts["validation"] or None
        if has_views:
            views = view_rows(document, notes.views, set(parts["train"]["section_id"]), spec.seed)
    pairs, held_out_pairs = spec.pairs(document)
    askable = {row["section_id"] for row in (learned if notes.prose else every) or ()}
    return Rows(
        pairs=pairs,
        held_out_pairs=held_out_pairs,
        prose=learned,
        held_out_prose=held_out,
        views=views,
        questions=spec.notes_questions(pairs, held_out_pairs, document),
        book=tuple(dict.fromkeys(every["text"])) if every is not None else (),
        passages=_with_prose(document, askable),
    )


def require_rows(rows: Rows, document: Document) -> None:
    """Raises NoRowsError if the document has nothing to train on."""
    if not rows.parts():
        kinds = sorted({section.kind for section in document.sections})
        raise NoRowsError(
            f"Nothing to train on; the document has: {', '.join(kinds) or 'no sections'}.",
            "Training reads instruction sections and, unless prose is false, prose.",
            path=document.path,
        )


def tokenize_rows(rows: Rows, tokenizer: PreTrainedTokenizerBase, max_length: int, seed: int) -> Tokens:
    """Pairs, prose and views as one shuffled dataset, and the held-out rows: pairs, or prose if there are no pairs."""
    tokenized = {
        kind: tokenize(part, tokenizer, max_length)
        for kind, part in (("pairs", rows.pairs), ("prose", rows.prose), ("views", rows.views))
        if part is not None
    }
    # Shuffled here, by the run's own seed: the sampler that balances batches has a fixed one.
    parts = [sequences for sequences, _ in tokenized.values()]
    train = concatenate_datasets(parts).shuffle(seed=seed) if parts else None
    held_out = rows.held_out_prose if rows.pairs is None and rows.held_out_pairs is None else rows.held_out_pairs
    validation = tokenize(held_out, tokenizer, max_length)[0] if held_out else None
    return Tokens(train, validation, {kind: report for kind, (_, report) in tokenized.items()})


def _with_prose(document: Document, section_ids: set[str]) -> Document:
    """The document with nothing but these sections."""
    return replace(document, sections=tuple(s for s in document.sections if s.section_id in section_ids))
