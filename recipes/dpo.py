"""Preference optimisation (DPO) of a trained adapter on a document's preference sections, with the stock DPOTrainer.

    accelerate launch recipes/dpo.py --config recipes/preferences.yaml --adapter_from runs/notes
    accelerate launch recipes/dpo.py --notes notes.dlm --beta 0.2 --loss_type ipo

It goes on from the adapter that recipes/sft.py made, and a frozen copy of that is the reference. All settings: python
recipes/dpo.py --help. The command line overrides the YAML, the YAML overrides the document's frontmatter
(`training.preference`), and the frontmatter overrides the defaults. The run prints where each value comes from.
"""

import os
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
warnings.filterwarnings("ignore", category=FutureWarning)  # TRL and PEFT use names that transformers deprecates

from dlm_trl.train.distributed import explained_errors, prepare_deepspeed, processes, run_program

prepare_deepspeed()  # before TRL is imported, which imports DeepSpeed

from peft import prepare_model_for_kbit_training
from trl import DPOTrainer

from dlm_trl.evaluation import report
from dlm_trl.evaluation.advice import missed
from dlm_trl.evaluation.content import Report
from dlm_trl.evaluation.preferences import advise_preferences
from dlm_trl.export import ship
from dlm_trl.export.run_module import run_module
from dlm_trl.models import lineage
from dlm_trl.models.load import attach_trainable, load_base
from dlm_trl.notes.terminal import say
from dlm_trl.train.agree import agree
from dlm_trl.train.base import attention, base_dtype
from dlm_trl.train.callbacks import install
from dlm_trl.train.checkpoints import remove_checkpoints
from dlm_trl.train.measure_preferences import MeasurePreferences
from dlm_trl.train.preference_config import read_preference_configuration
from dlm_trl.train.prepare_preferences import prepare_preferences
from dlm_trl.train.run import PreferenceRun
from dlm_trl.train.save import describe, save
from dlm_trl.train.settings import print_settings, shown_settings
from dlm_trl.train.stop import StopSignals
from dlm_trl.train.trial import trainer_errors, try_optimizer


def main(argv: list[str]) -> None:
    """Train. Raises DlmError if the input is wrong, before any weights are loaded; a signal ends it with SystemExit."""
    with StopSignals() as signals, explained_errors():
        train(argv, signals)


def train(argv: list[str], signals: StopSignals) -> None:
    """All steps of a run, from settings to report."""
    # 1. Read the settings and the data, and check everything that needs no weights.
    configuration = read_preference_configuration(argv)
    args = configuration.training

    def prepared() -> PreferenceRun:
        run = prepare_preferences(configuration)
        if run.notes.export:
            ship.check(run.base_model, Path(args.output_dir), run.notes.export)
        return run

    run = agree(configuration, prepared)
    if args.process_index == 0:
        print_settings(configuration)
        say("\n".join(run.notices))
        if run.notes.overwrite and not run.checkpoint:
            remove_checkpoints(args.output_dir)

    # 2. Load the base, quantised if it was, with the adapter. The trainer adds a frozen copy of it, named "ref".
    base = load_base(run.base_model, base_dtype(args), run.adapter.quantization, attention(args))
    if run.adapter.quantization:
        base = prepare_model_for_kbit_training(base, use_gradient_checkpointing=args.gradient_checkpointing)
    model = attach_trainable(base, run.adapter_from)
    if run.rows.held_out is None:
        args.eval_strategy = "no"
    with trainer_errors(configuration):
        trainer = DPOTrainer(
            model=model,
            args=args,
            train_dataset=run.rows.train,
            eval_dataset=run.rows.held_out,
            processing_class=run.tokenizer,
        )
        if run.notes.reference == "base":
            model.delete_adapter("ref")  # without a copy, the trainer's reference is the model without its adapter
        try_optimizer(trainer)
    accelerator = trainer.accelerator
    accelerator.print(f"world size: {processes(accelerator)}, {args.device}")
    accelerator.print(f"trainable parameters: {run.trainable:,}, from {run.adapter_from}")

    # 3. Train, from a checkpoint if set. The first measurement is made right before the first step.
    measuring = MeasurePreferences(trainer, run)
    if run.notes.measure:
        trainer.add_callback(measuring)
    stop = install(trainer, run.resume_settings, signals)
    trainer.train(resume_from_checkpoint=run.checkpoint)
    if stop.saved:
        accelerator.end_training()
        signals.release(f"{stop.saved} is complete. Resume with: --resume_from_checkpoint true")

    # 4. Save the adapter without the copy, measure again, write the report.
    if run.notes.reference == "pre_adapter":
        model.delete_adapter("ref")
    folder = save(trainer, run)
    accelerator.print(f"adapter: {args.output_dir} and {folder}")
    signals.release(f"the adapter is complete, without its last measurements: {folder}")
    if run.notes.measure:
        result = measuring.result()
        if accelerator.is_main_process:
            describe([Path(args.output_dir), folder], run, result.measures)
            facts = run_facts(run, accelerator, result.wrong)
            unknown = missed(run.questions, result.after.recall.answers)
            advice = advise_preferences(result.measures)
            whole = Report(
                facts,
                result.measures,
                result.samples,
                trainer.state.log_history,
                missed=unknown,
                advice=advice,
                lineage=lineage.read(Path(args.output_dir)),
                settings=shown_settings(configuration),
            )
            report.write(args.output_dir, whole)
            say(report.summary(whole))
            say(f"report: {args.output_dir}/report.html, as Markdown: {args.output_dir}/report.md")
    accelerator.end_training()

    # 5. Export in a fresh process, because this one is set up for distributed training.
    if run.notes.export and accelerator.is_main_process:
        arguments = (str(folder), args.output_dir, "--to", run.notes.export, "--calibration", str(run.notes.notes))
        run_module("dlm_trl.export.ship", *arguments, show=True)


def run_facts(run: PreferenceRun, accelerator, wrong: list[str]) -> dict[str, object]:
    """What the report says about the run, apart from its numbers."""
    training = run.training
    return {
        "document": run.notes.notes,
        "base": run.base_model,
        "adapter": f"{run.adapter.adapter}, {run.trainable:,} parameters, from {run.adapter_from}",
        "loss": f"{' + '.join(training.loss_type)}, beta {training.beta:g}, reference {run.notes.reference}",
        "preference rows": {**run.rows.provenance(), "held out": len(run.rows.held_out or ())},
        "rows that still reward the rejected answer": ", ".join(wrong) or "none",
        "processes": processes(accelerator),
    }


if __name__ == "__main__":
    run_program(main)
