"""The YAML header of a model card: `card_header("Qwen/Qwen3-1.7B", "peft", ["dlm", "trl", "lora"])`."""

from collections.abc import Sequence

from huggingface_hub import ModelCardData

from dlm_trl.models.registry import ModelRef

NO_LICENCE = "# license: fill it in; the base's terms apply"


def card_header(base: str | None, library: str, tags: Sequence[str], license: str | None = None) -> str:
    """The header with its two `---` lines, for a text-generation model.

    base: a base as `ModelRef.record` gives it. A base that isn't on the Hub is left out: the Hub rejects a card
    that names a local folder. license: an id such as apache-2.0, by default the base's if the registry knows it.
    """
    model = ModelRef.from_record(base) if base else None
    license = license or (model.license if model else None)
    data = ModelCardData(
        base_model=model.hub_id if model else None,
        library_name=library,
        license=license,
        pipeline_tag="text-generation",
        tags=list(tags),
    )
    return "\n".join(["---", *([] if license else [NO_LICENCE]), data.to_yaml(), "---"])
