"""The document's rows, parted, tokenised and mixed; and the questions that are asked before and after training."""

from collections import Counter
from dataclasses import dataclass

from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedTokenizerBase

from dlm_trl.evaluation.recall import RecallQuestion
from dlm_trl.models.tokenize import TokenReport, tokenize
from dlm_trl.notes.errors import NoRowsError
from dlm_trl.train.config import Configuration
from dlm_trl.train.skill import all_prose, eval_spec, learned_prose


@dataclass(frozen=True)
class Rows:
    """The document's rows before tokenising; None where there are none of a kind.

    `questions` are those to ask, by group: "seen", "held-out", "reworded". Where no pair is learned, all are held out.
    `book` is all prose, learned or not, which the base reads for its answers with an open book; no pair is part of it.
    """

    pairs: Dataset | None
    held_out_pairs: Dataset | None
    prose: Dataset | None
    held_out_prose: Dataset | None
    questions: dict[str, list[RecallQuestion]]
    book: tuple[str, ...] = ()

    def parts(self) -> list[Dataset]:
        """What is trained on: pairs, prose, or both."""
        return [part for part in (self.pairs, self.prose) if part is not None]

    def provenance(self) -> dict[str, int]:
        """Rows to train on by who wrote them: "human", or the teacher of a synthesised pair; prose is counted apart."""
        counts: Counter[str] = Counter()
        if self.pairs is not None:
            counts.update(teacher or "human" for teacher in self.pairs["teacher"])
        if self.prose is not None:
            counts["prose"] = len(self.prose)
        return dict(counts)


@dataclass(frozen=True)
class Tokens:
    """Sequences for the trainer, None where the document has no part in that; `reports` by kind ("pairs", "prose") say
    what became of the rows.
    """

    train: Dataset | None
    validation: Dataset | None
    reports: dict[str, TokenReport]

    def shares(self) -> dict[str, float]:
        """Each kind's share of the tokens in the loss."""
        total = sum(report.trained_tokens for report in self.reports.values())
        return {kind: report.trained_tokens / total for kind, report in self.reports.items()}


def load_rows(configuration: Configuration) -> Rows:
    """Every row of the document that the run is about, none without a document.

    Raises DlmError for broken sections, and where there is nothing to train on.
    """
    notes, document = configuration.notes, configuration.document
    if document is None:
        return Rows(None, None, None, None, {})
    kinds = {section.kind for section in document.sections}
    has_sources = notes.expand_sources and bool(document.frontmatter.training.sources)
    prose = held_out_prose = None
    book: tuple[str, ...] = ()
    asked = eval_spec(configuration)
    pairs, held_out_pairs = asked.pairs()
    if "prose" in kinds or has_sources:
        book = tuple(dict.fromkeys(all_prose(configuration)["text"]))
        if notes.prose:
            prose, held_out_prose = learned_prose(configuration)
    if pairs is None and prose is None and not (configuration.task.task or configuration.task.task_rows):
        raise NoRowsError(
            f"There is nothing to train on; the document has: {', '.join(sorted(kinds)) or 'no section'}.",
            hint="Training reads instruction sections and, unless prose is false, prose.",
            path=document.path,
        )
    return Rows(pairs, held_out_pairs, prose, held_out_prose, asked.recall_questions(pairs, held_out_pairs), book)


def tokenize_rows(rows: Rows, tokenizer: PreTrainedTokenizerBase, configuration: Configuration) -> Tokens:
    """Pairs and prose as one shuffled dataset, and the held-out rows: pairs, or prose where there are no pairs."""
    training = configuration.training
    made = {
        kind: tokenize(part, tokenizer, training.max_length)
        for kind, part in (("pairs", rows.pairs), ("prose", rows.prose))
        if part is not None
    }
    # Shuffled here, by the run's own seed: the sampler that balances batches has a fixed one.
    parts = [tokens for tokens, _ in made.values()]
    train = concatenate_datasets(parts).shuffle(seed=training.seed) if parts else None
    held_out = rows.held_out_prose if rows.pairs is None and rows.held_out_pairs is None else rows.held_out_pairs
    validation = tokenize(held_out, tokenizer, training.max_length)[0] if held_out else None
    return Tokens(train, validation, {kind: report for kind, (_, report) in made.items()})
