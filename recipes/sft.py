"""Supervised fine-tuning on a `.dlm` document, on a task, or on both, with the stock SFTTrainer.

    accelerate launch recipes/sft.py --config recipes/notes.yaml
    accelerate launch recipes/sft.py --config recipes/mcsb.yaml --seed 1
    accelerate launch --config_file accelerate_configs/ddp.yaml recipes/sft.py --config recipes/notes.yaml --lora_r 16

All settings: python recipes/sft.py --help. The command line overrides the YAML, the YAML overrides the document's
frontmatter, and the frontmatter overrides the defaults. The run prints where each value comes from.
"""

import os
import shlex
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
warnings.filterwarnings("ignore", category=FutureWarning)  # TRL and PEFT use names that transformers deprecates

from dlm_trl.train.distributed import explained_errors, prepare_deepspeed, processes, run_program

prepare_deepspeed()  # before TRL is imported, which imports DeepSpeed

from peft import prepare_model_for_kbit_training
from trl import SFTTrainer

from dlm_trl.evaluation import report
from dlm_trl.export import ship
from dlm_trl.export.run_module import run_module
from dlm_trl.models.chat import has_template
from dlm_trl.models.load import load_base
from dlm_trl.notes.terminal import say
from dlm_trl.online.callback import placeholder
from dlm_trl.online.distillation import Distillation
from dlm_trl.online.hooks import add_hook
from dlm_trl.train.adapter import ShrinkRanks
from dlm_trl.train.agree import agree
from dlm_trl.train.base import attention, base_dtype
from dlm_trl.train.callbacks import install
from dlm_trl.train.checkpoints import remove_checkpoints
from dlm_trl.train.config import read_configuration
from dlm_trl.train.loss import UncastInputs, scored_where_labelled
from dlm_trl.train.measure import MeasureBefore, measure, measures, task_measures
from dlm_trl.train.prepare import prepare
from dlm_trl.train.rehearsal import Rehearsal
from dlm_trl.train.run import Run
from dlm_trl.train.run_report import run_report
from dlm_trl.train.save import describe, save
from dlm_trl.train.settings import print_settings
from dlm_trl.train.stop import StopSignals
from dlm_trl.train.task import attach_task
from dlm_trl.train.trial import trainer_errors, try_optimizer


def main(argv: list[str]) -> None:
    """Train. Raises DlmError if the input is wrong, before any weights are loaded; a signal ends it with SystemExit."""
    with StopSignals() as signals, explained_errors():
        train(argv, signals)


def train(argv: list[str], signals: StopSignals) -> None:
    """All steps of a run, from settings to report."""
    # 1. Read the settings and the data, and check everything that needs no weights.
    configuration = read_configuration(argv)
    args = configuration.training

    def prepared() -> Run:
        run = prepare(configuration)
        if run.notes.export:
            ship.check(run.base_model, Path(args.output_dir), run.notes.export)
        return run

    run = agree(configuration, prepared)
    if args.process_index == 0:
        print_settings(configuration)
        say("\n".join(run.notices))
        for kind, token_report in run.tokens.reports.items():
            say(f"{kind}: {token_report} ({run.tokens.shares()[kind]:.1%} of the loss)")
        if run.notes.overwrite and not run.checkpoint:
            remove_checkpoints(args.output_dir)

    # 2. Load the base, quantised if set. The trainer adds the adapter.
    model = load_base(run.base_model, base_dtype(args), run.adapter.quantization, attention(args))
    if run.adapter.quantization:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=args.gradient_checkpointing)
    train_rows = run.tokens.train or run.task_rows
    if run.tokens.validation is None:
        args.eval_strategy = "no"
    if not args.packing or not train_rows:  # a placeholder can't be packed
        args.dataset_kwargs = {"skip_prepare_dataset": True}  # the rows are tokenized and short enough
    with trainer_errors(configuration):
        trainer = SFTTrainer(
            model=model,
            args=args,
            train_dataset=train_rows or placeholder(args),
            eval_dataset=run.tokens.validation,
            processing_class=run.tokenizer,
            peft_config=run.peft_config,
        )
        try_optimizer(trainer)
    accelerator = trainer.accelerator
    accelerator.print(f"world size: {processes(accelerator)}, {args.device}")
    accelerator.print(f"trainable parameters: {run.trainable:,}")

    # 3. Train, from a checkpoint if set. The first measurement is made right before the first step.
    distillation = None
    if run.notes.objective != "nll":
        distillation = Distillation(run.notes.objective, run.contexts).attach(trainer)
    online = attach_task(trainer, run, distillation)
    if run.notes.rehearsal:
        Rehearsal(run.notes.rehearsal, args.seed, run.rehearsal_texts).attach(trainer)
    before = MeasureBefore(trainer, run.rows.questions, run.rows.book)
    if run.notes.measure:
        trainer.add_callback(before)
    if run.adapter.adapter == "adalora":
        trainer.add_callback(ShrinkRanks(run.adapter.adalora_warmup, run.adapter.adalora_final, run.checkpoint))
    stop = install(trainer, run.resume_settings, signals)
    add_hook(trainer, UncastInputs(trainer))
    with scored_where_labelled():
        trainer.train(resume_from_checkpoint=run.checkpoint)
    if stop.saved:
        accelerator.end_training()
        signals.release(f"{stop.saved} is complete. Resume with: --resume_from_checkpoint true")

    # 4. Save the adapter, measure again, write the report.
    folder = save(trainer, run)
    accelerator.print(f"adapter: {args.output_dir} and {folder}")
    signals.release(f"the adapter is complete, without its last measurements: {folder}")
    if run.notes.measure:
        after = measure(trainer, run.rows.questions)
        table = task_measures(trainer.state.log_history) + measures(before.numbers, after, run.rows.questions)
    if run.notes.measure and accelerator.is_main_process:
        describe([Path(args.output_dir), folder], run, table)
        fresh = [(str(row.outcome.prompt), row.outcome.target) for row in online.samples] if online else []
        whole = run_report(trainer, run, configuration, table, before, after, fresh)
        report.write(args.output_dir, whole)
        say(report.summary(whole))
        say(f"report: {args.output_dir}/report.html, as Markdown: {args.output_dir}/report.md")
    accelerator.end_training()

    # 5. Export in a fresh process, because this one is set up for distributed training.
    if run.notes.export and accelerator.is_main_process:
        arguments = (str(folder), args.output_dir, "--to", run.notes.export, "--calibration", str(calibration(run)))
        run_module("dlm_trl.export.ship", *arguments, show=True)
    if has_template(run.tokenizer) and accelerator.is_main_process:
        say(f"try it: dlm-trl chat {shlex.quote(args.output_dir)}")


def calibration(run: Run) -> Path:
    """The text to calibrate a quantiser on: the document, or the rows that a task wrote."""
    if run.notes.notes:
        return Path(run.notes.notes)
    if run.task.task_rows:
        return min(Path(run.task.task_rows).glob("data/*.jsonl"))
    return Path(run.training.output_dir) / "online_rows-0.jsonl"


if __name__ == "__main__":
    run_program(main)
