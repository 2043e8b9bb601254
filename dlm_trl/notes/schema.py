"""The frontmatter's schema, version 15: field names, ranges and defaults. Unknown keys are errors; models are frozen.

`frontmatter.training.model_fields_set` tells which values the file sets, as opposed to defaults.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

SCHEMA_VERSION = 15
ADAPTER_NAME = r"^[a-z][a-z0-9_]{0,31}$"


def _no_surrogates(text: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(r"surrogate escapes (\ud800 to \udfff) aren't valid text; write the character itself")
    return text


Text = Annotated[str, AfterValidator(_no_surrogates)]
AdapterName = Annotated[str, Field(pattern=ADAPTER_NAME)]
AdapterType = Literal["lora", "qlora", "dora"]
# YAML allows integers of any length, which later code couldn't compute with or print.
Integer = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Count = Annotated[int, Field(ge=1, lt=2**63)]
CountOrAuto = Literal["auto"] | Count
Rank = Annotated[int, Field(ge=1, le=256)]
Share = Annotated[float, Field(ge=0, le=1)]
HalfShare = Annotated[float, Field(ge=0, le=0.5)]
Positive = Annotated[float, Field(gt=0)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PreferenceHyperparams(_Model):
    """Hyperparameters of preference optimisation."""

    beta: Share = 0.1
    alpha: Share = 0.1
    learning_rate: Positive = 5e-6
    num_epochs: Count = 1


class Preference(_Model):
    """Training on preference sections; enabled by default if the document has any."""

    enabled: bool = False
    method: Literal["dpo", "orpo"] = "dpo"
    hyperparams: PreferenceHyperparams = PreferenceHyperparams()
    loss_type: Literal["sigmoid", "hinge", "ipo"] = "sigmoid"
    reference: Literal["base", "pre_adapter"] = "pre_adapter"


class ContinuedPretraining(_Model):
    """Training on prose."""

    schedule: Literal["auto", "dapt", "sft"] = "auto"
    embed_warmup_steps: Annotated[int, Field(ge=0, lt=2**63)] = 0


class Gate(_Model):
    """The learned gate between several adapters."""

    enabled: bool = False
    hidden_proj_dim: Annotated[int, Field(ge=8, le=2048)] = 64
    steps: Annotated[int, Field(ge=1, le=10_000)] = 200
    lr: Annotated[float, Field(gt=0, le=1)] = 3e-4
    cold_start_floor: Annotated[int, Field(ge=1, le=1024)] = 4
    entropy_lambda: Share = 0.01


class Cache(_Model):
    """The cache of tokenised sections."""

    enabled: bool = True
    max_bytes: Count = 10 * 1024**3
    prune_older_than_days: Count = 90


class Audio(_Model):
    """How audio sections are read."""

    auto_resample: bool = False


class Adapter(_Model):
    """One named adapter; values not set here come from the training block."""

    adapter: AdapterType = "lora"
    lora_r: Rank = 8
    lora_alpha: Count = 16
    lora_dropout: HalfShare = 0.05
    target_modules: Literal["auto"] | list[str] = "auto"
    learning_rate: Positive = 2e-4


class Source(_Model):
    """One entry of `training.sources`: files that become prose sections."""

    path: Annotated[str, Field(min_length=1)]
    include: list[str] = ["**/*"]
    exclude: list[str] = []
    max_bytes_per_file: Count | None = None
    max_files: Count | None = None


class Training(Adapter):
    """The training configuration; the keys inherited from `Adapter` are for documents without named adapters."""

    sequence_len: Annotated[int, Field(ge=64, le=32_768)] = 2048
    micro_batch_size: CountOrAuto = "auto"
    grad_accum: CountOrAuto = "auto"
    num_epochs: Count = 3
    optimizer: Literal["adamw_torch", "adamw_bnb_8bit", "paged_adamw_8bit", "galore_adamw", "galore_adamw_8bit"] = (
        "adamw_torch"
    )
    lr_scheduler: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: HalfShare = 0.1
    precision: Literal["bf16", "fp16", "fp32"] | None = None
    seed: Integer = 42
    preference: Preference = Preference()
    cpt: ContinuedPretraining = ContinuedPretraining()
    gate: Gate = Gate()
    cache: Cache = Cache()
    audio: Audio = Audio()
    adapters: dict[AdapterName, Adapter] | None = None
    sources: list[Source] | None = None
    sources_policy: Literal["permissive", "strict"] = "permissive"

    @model_validator(mode="after")
    def _adapters_agree(self) -> Self:
        if self.adapters is not None:
            if not self.adapters:
                raise ValueError("adapters is empty: name at least one adapter, or leave the key out")
            flat = [k for k in Adapter.model_fields if getattr(self, k) != type(self).model_fields[k].default]
            if flat:
                raise ValueError(f"with named adapters, {', '.join(flat)} must be set inside each adapter")
        if self.gate.enabled and len(self.adapters or ()) < 2:
            raise ValueError("gate.enabled needs at least two named adapters")
        return self


class Export(_Model):
    """Defaults for export and sampling."""

    default_quant: Literal["Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0"] = "Q4_K_M"
    default_temperature: Annotated[float, Field(gt=0, le=2)] | None = None
    default_top_p: Annotated[float, Field(gt=0, le=1)] | None = None


class Frontmatter(_Model):
    """The frontmatter of a document, migrated to the current schema version."""

    dlm_id: Annotated[str, Field(pattern=r"^[0-9A-HJKMNP-TV-Z]{26}$")]
    dlm_version: int = SCHEMA_VERSION
    base_model: Annotated[str, Field(min_length=1)]
    training: Training = Training()
    export: Export = Export()
    system_prompt: Text | None = None
