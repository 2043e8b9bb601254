"""How many views of a fact it takes until a model knows it, and not only the sentence it was trained on.

    python benchmarks/knowledge.py                                   # the whole table: hours on two cores; resumes
    python benchmarks/knowledge.py views:10 --people 100 --save runs/people
    python benchmarks/knowledge.py views:10 --people 100 --ask runs/people-awq         # after merge and quantize

A cell is STYLE:VIEWS[:OBJECTIVE[:RANK]]. SmolLM2-135M learns invented people with six facts each
(`benchmarks/biographies.py`). Every fact is trained `--exposures` times, in 1 to 20 wordings: fewer wordings are
repeated more often, so all cells take equally many rows. Styles: questions; views (questions, but half of those about
dogs ask for the owner); prose (sentences); both (1:1); styles (questions, sentences, letters, records). Objectives: nll
(cross-entropy on the answer) and kl (context distillation: the base reads the biography, the model in training doesn't)
or both. Asked afterwards: the first trained wording (seen), wordings that no cell trains (reworded), and from the other
side (reverse); perplexity of general text before and after. Results are kept in `--out`, one line per cell; a cell that
is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import product
from pathlib import Path
from typing import Any

import biographies as bio
import torch
from datasets import Dataset, concatenate_datasets
from matplotlib.figure import Figure
from peft import LoraConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed
from trl import SFTConfig, SFTTrainer

from dlm_trl.evaluation.perplexity import general_perplexity
from dlm_trl.evaluation.recall import RecallQuestion, answer_recall
from dlm_trl.models.chat import encode_answered
from dlm_trl.models.frozen import frozen
from dlm_trl.models.load import load_base, load_config, load_for_inference, load_tokenizer
from dlm_trl.models.precision import inference_dtype
from dlm_trl.models.tokenize import pad_token, tokenize
from dlm_trl.notes.journal import append
from dlm_trl.online.distillation import Distillation
from dlm_trl.online.hooks import add_hook
from dlm_trl.tasks.prompts import open_book
from dlm_trl.train.base import attention
from dlm_trl.train.config import learning_rate
from dlm_trl.train.loss import UncastInputs, scored_where_labelled
from dlm_trl.train.rehearsal import Rehearsal, pieces

CELLS = (
    *("questions:10", "questions:1", "questions:3", "both:10", "questions:20", "prose:10", "questions:5"),
    *("questions:10:kl", "questions:10:both", "questions:3:both", "styles:10"),
)
ROWS = 16  # per step, as in the recipe
MAX_LENGTH = 256


def rows(people: list[bio.Person], style: str, views: int, seed: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Pairs as prompt and completion, and texts: together `views` for each fact."""
    pairs: list[tuple[str, str]] = []
    texts: list[str] = []
    for person, attribute in product(people, bio.ATTRIBUTES):
        count = question_count(style, views, attribute)
        if style == "views":
            pairs += bio.reverse_views(person, views - count, seed)
        pairs += bio.question_views(person, attribute, count, seed)
        if style == "styles":
            texts += [*bio.letter_views(person, attribute, views // 4, seed), bio.record_view(person, attribute)]
            count += views // 4 + 1
        if style in ("prose", "both", "styles"):
            texts += bio.prose_views(person, attribute, views - count, seed)
    return [pair(question, answer) for question, answer in pairs], texts


def question_count(style: str, views: int, attribute: str) -> int:
    """How many of the views of a fact ask for it."""
    half = views // 2
    return {
        "questions": views,
        "views": half if attribute == "dog" else views,
        "prose": 0,
        "both": half,
        "styles": views // 4,
    }[style]


def pair(question: str, answer: str) -> dict[str, Any]:
    """A row for the trainer."""
    return {
        "prompt": [{"role": "user", "content": question}],
        "completion": [{"role": "assistant", "content": answer}],
    }


def dataset(people: list[bio.Person], style: str, views: int, tokenizer: PreTrainedTokenizerBase, seed: int) -> Dataset:
    """The rows of a cell, tokenized and shuffled."""
    pairs, texts = rows(people, style, views, seed)
    parts = [Dataset.from_list(pairs)] if pairs else []
    parts += [Dataset.from_dict({"text": texts})] if texts else []
    return concatenate_datasets([tokenize(part, tokenizer, MAX_LENGTH)[0] for part in parts]).shuffle(seed=seed)


def run(cell: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train one cell and ask its questions."""
    style, views, objective, rank = parse(cell)
    set_seed(options.seed)
    people = bio.make_people(options.people, options.seed)
    tokenizer = load_tokenizer(options.base)
    tokenizer.pad_token = pad_token(tokenizer)[0]
    config = load_config(options.base)
    half = str(inference_dtype(config)).removeprefix("torch.")
    steps = -(-len(people) * len(bio.ATTRIBUTES) * options.exposures // ROWS)
    args = SFTConfig(
        output_dir=str(options.out / "trainer"),
        per_device_train_batch_size=ROWS,
        gradient_accumulation_steps=1,
        max_steps=steps,
        learning_rate=learning_rate(config.get_text_config().hidden_size),
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        bf16=half == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        gradient_checkpointing=False,
        max_length=MAX_LENGTH,
        train_sampling_strategy="batch_rebalance",
        dataset_kwargs={"skip_prepare_dataset": True},
        save_strategy="no",
        report_to=[],
        logging_steps=max(1, steps // 10),
        seed=options.seed,
    )
    trainer = SFTTrainer(
        model=load_base(options.base, half, None, attention(args)),
        args=args,
        train_dataset=dataset(people, style, views, tokenizer, options.seed),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"),
    )
    texts = pieces(options.rehearsal_text, tokenizer) if options.rehearsal_text else None
    Rehearsal(options.rehearsal, options.seed, texts).attach(trainer)
    if objective != "nll":
        Distillation(objective, contexts(people, style, views, tokenizer, options.seed)).attach(trainer)
    began = time.perf_counter()
    add_hook(trainer, UncastInputs(trainer))
    with scored_where_labelled():
        trainer.train()
    seconds = time.perf_counter() - began
    model = trainer.accelerator.unwrap_model(trainer.model)
    with frozen(model) as base:
        before = general_perplexity(base, tokenizer)
    found: dict[str, Any] = {"perplexity_before": before, "perplexity": general_perplexity(model, tokenizer)}
    found |= ask(model, tokenizer, questions(cell, options))
    if options.save:
        model.save_pretrained(options.save)
        tokenizer.save_pretrained(options.save)
    return {**key(cell, options), **found, "steps": steps, "seconds": round(seconds), "loss": last_loss(trainer)}


def questions(cell: str, options: argparse.Namespace) -> dict[str, list[RecallQuestion]]:
    """What is asked about a cell's people, by group."""
    style, views, *_ = parse(cell)
    people = bio.make_people(options.people, options.seed)
    return {"seen": seen(people, style, views, options.seed)} | bio.test_questions(people, options.seed)


def ask(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, groups: dict[str, Any]) -> dict[str, Any]:
    """Exact match and F1 of each group, and its first twenty answers."""
    found: dict[str, Any] = {}
    for group, asked in groups.items():
        if asked:
            recall = answer_recall(model, tokenizer, asked)
            found |= {group: recall.exact_match, f"{group}_f1": recall.f1}
            told = zip(asked, recall.answers, strict=True)
            found[f"{group}_answers"] = [[question, answer, given] for (question, answer, _), given in told][:20]
    return found


def contexts(
    people: list[bio.Person], style: str, views: int, tokenizer: PreTrainedTokenizerBase, seed: int
) -> dict[tuple[int, ...], list[int]]:
    """For each pair, what the base reads: the question after the biography of the person."""
    found = {}
    for person in people:
        for row in rows([person], style, views, seed)[0]:
            asked, said = row["prompt"][0]["content"], row["completion"][0]["content"]
            ids, start = encode_answered(tokenizer, row["prompt"], said)
            told = [{"role": "user", "content": open_book(person.biography(seed), asked)}]
            context, end = encode_answered(tokenizer, told, said)
            assert context[end:] == ids[start:]
            found[tuple(ids)] = context[:end]
    return found


def seen(people: list[bio.Person], style: str, views: int, seed: int) -> list[RecallQuestion]:
    """A trained question about each fact, none if only prose was trained."""
    found: list[RecallQuestion] = []
    for person, attribute in product(people, bio.ATTRIBUTES):
        count = question_count(style, views, attribute)
        found += [(*view, None) for view in bio.question_views(person, attribute, count, seed)[:1]]
    return found


def parse(cell: str) -> tuple[str, int, Any, int]:
    """Style, views, objective and rank of a cell. Raises ValueError for an invalid one."""
    style, views, objective, rank = (cell.split(":") + ["nll", "32"][max(0, cell.count(":") - 1) :])[:4]
    if style not in ("questions", "views", "prose", "both", "styles") or objective not in ("nll", "kl", "both"):
        raise ValueError(f"{cell!r} isn't a cell")
    return style, int(views), objective, int(rank)


def key(cell: str, options: argparse.Namespace) -> dict[str, Any]:
    """What a result depends on."""
    return {
        "cell": cell,
        **{
            name: getattr(options, name)
            for name in ("base", "people", "exposures", "rehearsal", "rehearsal_text", "seed")
        },
    }


def last_loss(trainer: SFTTrainer) -> float:
    return [line["loss"] for line in trainer.state.log_history if "loss" in line][-1]


def show(results: list[dict[str, Any]]) -> None:
    """The table, as Markdown."""
    print("| cell | people | seen | reworded | reverse | perplexity | minutes |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for found in results:
        shares = [f"{found[group]:.1%}" if group in found else "–" for group in ("seen", "reworded", "reverse")]
        change = found["perplexity"] / found["perplexity_before"] - 1
        cells = [found["cell"], str(found["people"]), *shares, f"{change:+.1%}", f"{found['seconds'] / 60:.0f}"]
        print("| " + " | ".join(cells) + " |")


def draw(results: list[dict[str, Any]], file: Path) -> None:
    """The dose curves: exact match on reworded questions against views per fact."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    curves: dict[str, list[tuple[int, float]]] = {}
    for found in results:
        style, views, objective, rank = parse(found["cell"])
        if rank == 32:
            curves.setdefault(f"{style}, {objective}", []).append((views, found["reworded"]))
    for name, points in curves.items():
        axes.plot(*zip(*sorted(points), strict=True), "o-", label=name)
    axes.set(xlabel="views per fact (equal number of rows)", ylabel="reworded questions answered", ylim=(0, 1.02))
    axes.set(xscale="log", xticks=[1, 3, 5, 10, 20])
    axes.set_xticklabels(["1", "3", "5", "10", "20"])
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="*", default=CELLS)
    parser.add_argument("--people", type=int, default=16)
    parser.add_argument("--exposures", type=int, default=30, help="rows per fact, over all its wordings")
    parser.add_argument("--rehearsal", type=float, default=5.0, help="weight of the KL from the base on general text")
    parser.add_argument("--rehearsal-text", help="a text file; without one, the base writes the general text itself")
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/knowledge"))
    parser.add_argument("--save", help="keep the adapter of the last cell in this folder")
    parser.add_argument("--ask", help="train nothing: ask the cell's questions of this adapter or model")
    options = parser.parse_args()
    if options.ask:
        for cell in options.cells:
            found = ask(*load_for_inference(options.ask), questions(cell, options))
            print(cell, *(f"{group} {found[group]:.1%}" for group in ("seen", "reworded", "reverse") if group in found))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "results.jsonl"
    results = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    for cell in options.cells:
        parse(cell)
    for cell in options.cells:
        if not any(key(cell, options).items() <= found.items() for found in results):
            results.append(run(cell, options))
            append(file, results[-1:])
            show(results)
    show(results)
    draw([found for found in results if found["people"] == options.people], options.out / "knowledge.png")


if __name__ == "__main__":
    main()
