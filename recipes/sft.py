"""Notes in, or a skill's name; trained adapter out: supervised fine-tuning with the stock SFTTrainer.

    accelerate launch recipes/sft.py --config recipes/notes.yaml
    accelerate launch recipes/sft.py --config recipes/mcsb.yaml --seed 1
    accelerate launch --config_file accelerate_configs/ddp.yaml recipes/sft.py --config recipes/notes.yaml --lora_r 16

Every setting: python recipes/sft.py --help. What the command line does not say is taken from the YAML, then from the
document's frontmatter, then from the defaults; the run prints a table of what came from where.
"""

import os
import shutil
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from dlm_trl.train.distributed import leave, prepare_deepspeed

prepare_deepspeed()  # before TRL is imported, which imports DeepSpeed

from peft import prepare_model_for_kbit_training
from trl import SFTTrainer

from dlm_trl.evaluation import report
from dlm_trl.export import ship
from dlm_trl.export.run_module import run_module
from dlm_trl.models.load import load_base
from dlm_trl.notes import DlmError
from dlm_trl.online.callback import placeholder
from dlm_trl.online.rows_on_disk import load_rows
from dlm_trl.train.adapter import ShrinkRanks
from dlm_trl.train.callbacks import install
from dlm_trl.train.config import print_settings, read_configuration
from dlm_trl.train.data import tokenize_rows
from dlm_trl.train.loss import scored_where_labelled
from dlm_trl.train.measure import MeasureBefore, measure, measures, samples
from dlm_trl.train.preflight import checkpoints, prepare
from dlm_trl.train.rehearsal import Rehearsal, pieces
from dlm_trl.train.save import save
from dlm_trl.train.skill import attach, skill_measures

SHORT_ROWS = 512  # tokens


def main(argv: list[str]) -> None:
    """Train. Raises DlmError for what is wrong with the input, before any weight is loaded."""
    # 1. What to do, and whether it can be done. No weights yet.
    configuration = read_configuration(argv)
    notes, adapter, args = configuration.notes, configuration.adapter, configuration.training
    with args.main_process_first(desc="reading the document"):
        prepared = prepare(configuration)
        tokens = tokenize_rows(prepared.rows, prepared.tokenizer, configuration)
        written = configuration.task.task_rows and load_rows(
            configuration.task.task_rows, prepared.tokenizer, args.max_length
        )
        train_rows = tokens.train or written or placeholder(args)
        if notes.export:
            ship.check(adapter.base_model, Path(args.output_dir), notes.export)
    if args.process_index == 0:
        print_settings(configuration)
        print(*prepared.notes, sep="\n")
        for kind, token_report in tokens.reports.items():
            print(f"{kind}: {token_report} ({tokens.shares()[kind]:.1%} of the loss)")
        if notes.overwrite and not prepared.checkpoint:
            for checkpoint in checkpoints(args.output_dir):
                shutil.rmtree(checkpoint)

    # 2. Base model, quantised where asked; the trainer puts the adapter on it.
    model = load_base(adapter.base_model, base_dtype(args), adapter.quantization, attention(args))
    if adapter.quantization:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=args.gradient_checkpointing)
    if tokens.validation is None:
        args.eval_strategy = "no"
    if not args.packing or not (tokens.train or written):  # a placeholder is not to be packed
        args.dataset_kwargs = {"skip_prepare_dataset": True}  # the rows are tokenised and nothing is too long
    trainer = SFTTrainer(
        model=model,
        args=args,
        train_dataset=train_rows,
        eval_dataset=tokens.validation,
        processing_class=prepared.tokenizer,
        peft_config=prepared.adapter,
    )
    accelerator = trainer.accelerator
    accelerator.print(f"world size: {accelerator.num_processes} ({accelerator.distributed_type.value}, {args.device})")
    accelerator.print(f"trainable parameters: {prepared.trainable:,}")

    # 3. Train, from a checkpoint where asked; the first numbers are taken just before the first step.
    online = attach(trainer, configuration)
    if notes.rehearsal:
        texts = pieces(notes.rehearsal_text, prepared.tokenizer) if notes.rehearsal_text else None
        Rehearsal(notes.rehearsal, args.seed, texts).attach(trainer)
    before = MeasureBefore(trainer, prepared.rows.questions, prepared.rows.book)
    if notes.measure:
        trainer.add_callback(before)
    if adapter.adapter == "adalora":
        trainer.add_callback(ShrinkRanks(adapter.adalora_warmup, adapter.adalora_final, prepared.checkpoint))
    stop = install(trainer)
    with scored_where_labelled():
        trainer.train(resume_from_checkpoint=prepared.checkpoint)
    if stop.saved:
        accelerator.print(f"stopped; {stop.saved} is whole. Go on with: --resume_from_checkpoint true")
        accelerator.end_training()
        sys.exit(128 + stop.signal)

    # 4. Measure again, keep the adapter, write it all down.
    rows = []
    if notes.measure:
        after = measure(trainer, prepared.rows.questions)
        rows = skill_measures(trainer.state.log_history) + measures(before.numbers, after)
    folder = save(trainer, configuration, prepared.rows, rows)
    if notes.measure and accelerator.is_main_process:
        shown = samples(prepared.rows.questions, before.numbers, after)
        facts = run_facts(configuration, prepared, tokens, accelerator)
        fresh = [(str(row.outcome.prompt), row.outcome.target) for row in online.samples] if online else []
        report.write(args.output_dir, report.Report(facts, rows, shown, trainer.state.log_history, fresh))
        print(
            report.measures_table(rows),
            f"\nreport: {args.output_dir}/report.md, picture: {args.output_dir}/report.png",
        )
    accelerator.print(f"adapter: {args.output_dir} and {folder}")
    accelerator.end_training()

    # 5. To a model that can be served, by a process of its own: this one's libraries are set up for several.
    if notes.export and accelerator.is_main_process:
        source = str(calibration(configuration))
        arguments = (str(folder), args.output_dir, "--to", notes.export, "--calibration", source)
        run_module("dlm_trl.export.ship", *arguments, show=True)


def calibration(configuration) -> Path:
    """What a quantiser looks at: the document, or the rows that a task wrote."""
    if configuration.notes.notes:
        return Path(configuration.notes.notes)
    if configuration.task.task_rows:
        return min(Path(configuration.task.task_rows).glob("data/*.jsonl"))
    return Path(configuration.training.output_dir) / "online_rows-0.jsonl"


def base_dtype(args) -> str:
    """The frozen base is kept in the precision of the computation; the adapter itself is float32 (but under ZeRO-3)."""
    return "bfloat16" if args.bf16 else "float16" if args.fp16 else "float32"


def attention(args) -> str | None:
    """On a CPU, plain matrix products train short rows faster than torch's fused attention (1.3 to 1.5 times); for long
    ones they take too much memory.
    """
    return "eager" if args.use_cpu and args.max_length <= SHORT_ROWS and not args.padding_free else None


def run_facts(configuration, prepared, tokens, accelerator) -> dict[str, object]:
    """What the report says about the run, apart from its numbers."""
    task = configuration.task
    sources = {"document": configuration.notes.notes, "task": task.task, "rows of a task": task.task_rows}
    return {
        **{name: source for name, source in sources.items() if source},
        "base": configuration.adapter.base_model,
        "adapter": f"{configuration.adapter.adapter}, {prepared.trainable:,} parameters",
        "rows": prepared.rows.provenance(),
        "shares of the loss": {kind: round(share, 3) for kind, share in tokens.shares().items()},
        "processes": f"{accelerator.num_processes} ({accelerator.distributed_type.value})",
    }


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
        leave()
    except DlmError as error:
        sys.exit(str(error) if os.environ.get("RANK", "0") == "0" else 1)
