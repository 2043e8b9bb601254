"""Runs on synthetic rows alone, to be launched in one process or several: see `test_callback_distributed`.

    python -m accelerate.commands.launch … -m tests.online.train_online '[{"output": …, "task": "letters", …}, …]'

One run after the other; each writes what it logged into `run-<rank>.json` of its output folder.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlm_trl.train.distributed import exit_worker, prepare_deepspeed
from tests.tasks.letters import CheckedLetters, Letters, ToldLetters

if TYPE_CHECKING:
    from accelerate import Accelerator


def train(
    model: str, output: str, accumulation: int, task: str, steps: int = 4, resume: str | None = None, **settings: Any
) -> Accelerator:
    """One run of `steps` steps, of 8 rows each in one process with accumulation 2 or in two without.

    Returns the trainer's accelerator, whose end_training() belongs to the end of the process.
    """
    prepare_deepspeed()
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    from dlm_trl.models.load import load_base, load_tokenizer
    from dlm_trl.online.callback import OnlineSynthesisCallback, placeholder
    from dlm_trl.online.curriculum import Curriculum
    from dlm_trl.online.distillation import Distillation

    args = SFTConfig(
        output_dir=output,
        max_steps=steps,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=accumulation,
        learning_rate=1e-2,
        logging_steps=1,
        save_strategy="steps",
        save_steps=2,
        bf16=False,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": True},
        **settings,
    )
    trainer = SFTTrainer(
        load_base(model, "float32"),
        args,
        train_dataset=placeholder(args),
        processing_class=load_tokenizer(model),
        peft_config=LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    stages = [Letters(rejecting="few"), CheckedLetters(loss="labels"), Letters(choices=False)]
    tasks = {
        "letters": Curriculum(stages, threshold=0.2, window=1),
        "scarce": Letters(rejecting="most"),
        "told": ToldLetters(rejecting="most"),
    }
    hook = Distillation("both").attach(trainer) if task == "told" else None
    # With this seed a process waits for the other's second attempts, and "scarce" has a step without any row.
    OnlineSynthesisCallback(tasks[task], seed=5, attempts=2, distillation=hook).attach(trainer)
    trainer.train(resume_from_checkpoint=resume)
    facts = {
        "world": trainer.accelerator.num_processes,
        "kind": trainer.accelerator.distributed_type.value,
        "log": [line for line in trainer.state.log_history if "loss" in line],
        "rows": (Path(output) / f"online_rows-{args.process_index}.jsonl").read_text("utf-8"),
    }
    (Path(output) / f"run-{args.process_index}{'-resumed' if resume else ''}.json").write_text(json.dumps(facts))
    return trainer.accelerator


if __name__ == "__main__":
    for run in json.loads(sys.argv[1]):
        accelerator = train(**run)
    accelerator.end_training()
    exit_worker()
