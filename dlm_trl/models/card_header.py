"""The YAML header of a model card: `card_header("Qwen/Qwen3-1.7B", "peft", ["dlm", "trl", "lora"])`."""

from collections.abc import Sequence

from huggingface_hub import ModelCardData

from dlm_trl.models.registry import ModelRef


def card_header(base: str | None, library: str, tags: Sequence[str]) -> str:
    """The header with its two `---` lines, for a text-generation model.

    base: a base as `ModelRef.record` gives it. A base that isn't on the Hub is left out: the Hub rejects a card
    that names a local folder.
    """
    data = ModelCardData(
        base_model=ModelRef.from_record(base).hub_id if base else None,
        library_name=library,
        pipeline_tag="text-generation",
        tags=list(tags),
    )
    return f"---\n{data.to_yaml()}\n---"
