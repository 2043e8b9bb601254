"""Checks of a run that every recipe makes before weights are loaded.

problems = Problems()
with problems:                        # collects the DlmError that ends the block
    base = load_config(name)
problems.add("Another one.")
problems.raise_any()                  # PreflightError, one line per problem
"""

import math
from collections.abc import Iterator, Sequence

from transformers import PretrainedConfig, PreTrainedTokenizerBase
from trl import DPOConfig, SFTConfig

from dlm_trl.models import tokenize
from dlm_trl.models.load import Quantization, context_length
from dlm_trl.notes import DlmError
from dlm_trl.notes.errors import MissingExtraError, PreflightError
from dlm_trl.notes.extras import require_extra
from dlm_trl.train.settings import Settings

LEAST_STEPS = 48  # optimizer steps; three epochs of a few dozen rows teach nothing
EXTRAS = {"tensorboard": "tracking", "trackio": "tracking", "bitsandbytes": "bnb"}


class Problems:
    """Collects problems; as a context, it collects the DlmError that ends the block."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, line: str) -> None:
        self.lines.append(line)

    def extend(self, lines: Sequence[str] | Iterator[str]) -> None:
        self.lines += lines

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if not isinstance(error, DlmError):
            return False
        self.add(str(error))
        return True

    def raise_any(self) -> None:
        if self.lines:
            raise PreflightError("\n".join(dict.fromkeys(self.lines)))


def fit_to_base(
    configuration: Settings, training: SFTConfig | DPOConfig, base: PretrainedConfig, tokenizer: PreTrainedTokenizerBase
) -> list[str]:
    """Lower what the base can't do and give the tokenizer a pad token; returns what was changed."""
    notices = []
    context = context_length(base)
    if context and training.max_length > context:
        configuration.change("max_length", context, f"lowered to the {context} positions that the base has")
        notices.append(f"max_length is lowered to the {context} positions that the base has.")
    token, notice = tokenize.pad_token(tokenizer)
    tokenizer.pad_token = token
    return [*notices, *([notice] if notice else [])]


def raise_epochs(configuration: Settings, training: SFTConfig | DPOConfig, rows: int) -> list[str]:
    """Unless the number of epochs is set, as many as `LEAST_STEPS` take; returns what was changed."""
    if not configuration.settings["num_train_epochs"].is_default or training.max_steps > 0 or not rows:
        return []
    rows_per_step = training.per_device_train_batch_size * training.gradient_accumulation_steps * training.world_size
    epochs = math.ceil(LEAST_STEPS / math.ceil(rows / rows_per_step))
    if epochs <= training.num_train_epochs:
        return []
    configuration.change("num_train_epochs", epochs, f"raised so that {rows} rows make {LEAST_STEPS} steps")
    return [f"num_train_epochs is raised to {epochs}, so that {rows} rows make {LEAST_STEPS} steps."]


def missing_extras(training: SFTConfig | DPOConfig, quantization: Quantization | None) -> list[str]:
    """A line for each package that isn't installed and that the settings need."""
    wanted = {name for name in training.report_to if name in EXTRAS}
    if quantization or "8bit" in training.optim or "bnb" in training.optim:
        wanted.add("bitsandbytes")
    problems = []
    for package in sorted(wanted):
        try:
            require_extra(EXTRAS[package], "This run", package)
        except MissingExtraError as error:
            problems.append(str(error))
    return problems
