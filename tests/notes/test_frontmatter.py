"""Any YAML is a frontmatter or a DlmError, and old versions are migrated."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dlm_trl.notes import DlmError, Frontmatter, parse
from dlm_trl.notes.schema import Training

HEAD = "dlm_id: 01JTRX0000000000000000000A\nbase_model: tiny\n"
PIECES = st.sampled_from(
    [
        *(
            "a",
            "training",
            "lora_r",
            "seed",
            "sources",
            "adapters",
            "dlm_version",
            "1",
            "8",
            "2e-4",
            ".nan",
            ".inf",
            "~",
        ),
        *(
            ": ",
            ":",
            "- ",
            "? ",
            ", ",
            "[",
            "]",
            "{",
            "}",
            "\n",
            "\n  ",
            "\t",
            " ",
            "'",
            '"',
            "|",
            ">",
            "#",
            "%",
            "@",
            "`",
        ),
        *(
            "&a ",
            "*a",
            "<<: ",
            "!!int ",
            "!!float ",
            "!!bool ",
            "!!timestamp ",
            "!!binary ",
            "!!set ",
            "!!omap ",
            "!x ",
        ),
        *(
            "2024-13-45",
            "0001-01-01T00:00:00+23:59",
            "0x" + "f" * 5000,
            "9" * 5000,
            "190:20:30",
            "---",
            "...",
            "\x85",
            "\x00",
        ),
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates() | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def head_of(yaml_text: str) -> Frontmatter:
    """The frontmatter of a document with this YAML."""
    return parse(f"---\n{yaml_text}\n---\n").frontmatter


def error_of(yaml_text: str) -> DlmError:
    """The error of a document with this YAML."""
    with pytest.raises(DlmError) as caught:
        head_of(yaml_text)
    assert str(caught.value)
    return caught.value


@given(st.lists(PIECES, max_size=30).map("".join), st.booleans())
def test_any_yaml_gives_a_frontmatter_or_a_dlm_error(text: str, with_head: bool) -> None:
    try:
        head_of(HEAD + text if with_head else text).model_dump_json()
    except DlmError as error:
        assert str(error)


@given(st.sampled_from(["training", "export", "system_prompt", "dlm_version", "dlm_id"]), VALUES)
def test_any_value_of_a_key_gives_a_frontmatter_or_a_dlm_error(key: str, value: object) -> None:
    data = {"dlm_id": "01JTRX0000000000000000000A", "base_model": "tiny", key: value}
    try:
        head_of(yaml.safe_dump(data)).model_dump_json()
    except DlmError as error:
        assert str(error)


@given(st.sampled_from(sorted(Training.model_fields)), VALUES)
def test_any_training_setting_gives_a_frontmatter_or_a_dlm_error(key: str, value: object) -> None:
    try:
        head_of(HEAD + yaml.safe_dump({"training": {key: value}})).model_dump_json()
    except DlmError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("x: " + "[" * 100_000, "FrontmatterError"),
        ("x: " + "[" * 3000 + "]" * 3000, "FrontmatterError"),
        ("\n".join(" " * i + "x:" for i in range(3000)), "FrontmatterError"),
        ("training: &a\n  x: *a", "SchemaValidationError"),
        ("training:\n  target_modules: &a [*a]", "SchemaValidationError"),
        ("training:\n  seed: " + "9" * 5000, "FrontmatterError"),
        ("training:\n  seed: 0x" + "f" * 5000, "SchemaValidationError"),
        ("training:\n  learning_rate: 0x" + "f" * 5000, "SchemaValidationError"),
        ("dlm_version: 0x" + "f" * 5000, "DlmVersionError"),
        ("x: 2024-13-45", "FrontmatterError"),
        ("x: !!bool maybe", "FrontmatterError"),
        ('x: !!int ""', "FrontmatterError"),
        ("x: !!timestamp never", "FrontmatterError"),
        ("? [a]\n: b", "FrontmatterError"),
        ("x: \x00", "FrontmatterError"),
    ],
    ids=lambda value: value[:24].replace("\n", " ") if isinstance(value, str) else "",
)
def test_hostile_yaml_is_refused(text: str, kind: str) -> None:
    assert error_of(HEAD + text).kind == kind


def test_aliases_cannot_blow_up() -> None:
    lists = "a0: &a0 [x]\n" + "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))
    assert len(str(error_of(HEAD + lists))) < 10_000
    merges = "a0: &a0 {x: 1}\n" + "\n".join(
        f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 12)
    )
    assert error_of(HEAD + merges).kind == "FrontmatterError"


def test_a_yaml_error_has_its_line_and_column() -> None:
    error = error_of("dlm_id: x\nbase_model: [a\nsystem_prompt: b")
    assert (error.kind, error.line, error.column) == ("FrontmatterError", 4, 14)
    error = error_of("dlm_id: x\nbase_model: a\x00b")
    assert (error.kind, error.line, error.column) == ("FrontmatterError", 3, 14)


def test_all_schema_errors_are_reported_at_once() -> None:
    error = error_of("dlm_id: x\ntags: [a]\ntraining:\n  lora_r: 0")
    for name in ("dlm_id", "tags", "training.lora_r", "base_model"):
        assert name in error.message


@pytest.mark.parametrize("version", ["", "dlm_version: 1\n"])
def test_the_first_version_is_migrated(version: str) -> None:
    training = head_of(
        HEAD
        + version
        + "training:\n  seed: 7\n  dpo: {enabled: true, beta: 0.3, num_epochs: 2, reference: pre_dpo_adapter}"
    ).training
    preference = training.preference
    assert (preference.enabled, preference.method, preference.reference) == (True, "dpo", "pre_adapter")
    assert (preference.hyperparams.beta, preference.hyperparams.num_epochs, training.seed) == (0.3, 2, 7)
    assert training.model_fields_set == {"seed", "preference"}
    assert preference.hyperparams.model_fields_set == {"beta", "num_epochs"}


@pytest.mark.parametrize("version", range(2, 16))
def test_later_versions_reject_the_old_block(version: int) -> None:
    text = HEAD + f"dlm_version: {version}\n"
    assert head_of(text).dlm_version == 15
    assert error_of(text + "training:\n  dpo: {enabled: true}").kind == "SchemaValidationError"


@pytest.mark.parametrize(
    ("training", "ok"),
    [
        ("adapters: {}", False),
        ("adapters: {tone: {}}", True),
        ("adapters: {tone: {lora_r: 4}}\n  lora_r: 8", True),
        ("adapters: {tone: {lora_r: 4}}\n  lora_r: 4", False),
        ("adapters: {tone: {}}\n  learning_rate: 0.1", False),
        ("adapters: {tone: {}}\n  gate: {enabled: true}", False),
        ("adapters: {tone: {}, style: {}}\n  gate: {enabled: true}", True),
        ("gate: {enabled: true}", False),
    ],
)
def test_named_adapters_agree_with_the_rest(training: str, ok: bool) -> None:
    text = HEAD + f"training:\n  {training}"
    if ok:
        assert head_of(text)
    else:
        assert error_of(text).kind == "SchemaValidationError"
