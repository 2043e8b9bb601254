"""Teachers by reference: each form loads its teacher, anything else is refused with the list of forms."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from dlm_trl import tiny
from dlm_trl.models import lineage
from dlm_trl.models.generate import generate
from dlm_trl.models.load import load_base, load_tokenizer
from dlm_trl.notes import DlmError, Document, parse, store
from dlm_trl.teachers.load import content_hash, inspect_teacher, load_teacher
from dlm_trl.teachers.protocol import Request

DLM_ID = "01K9BREADW1THS0VRD0VGH2T3R"
DOCUMENT = f"---\ndlm_id: {DLM_ID}\nbase_model: tiny\n---\nA starter is a mix of flour and water.\n"
ASKED = [{"role": "user", "content": "What is a starter?"}]


@pytest.fixture
def document() -> Document:
    """A document without an adapter."""
    return parse(DOCUMENT)


def train(base: str, weights: int, name: str | None = None) -> Path:
    """Save an adapter with random weights in the document's store, as training does."""
    torch.manual_seed(weights)
    config = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", init_lora_weights=False)
    version = store.next_version(DLM_ID, name)
    get_peft_model(load_base(base), config).save_pretrained(version)
    load_tokenizer(base).save_pretrained(version)
    store.set_current_adapter(DLM_ID, version, name)
    return version


def test_the_embedded_model_and_a_folder(document: Document, tmp_path: Path) -> None:
    embedded = load_teacher("hf:tiny", document)
    assert (embedded.reference, embedded.context) == ("hf:tiny", 1024)
    copied = tmp_path / "copy"
    shutil.copytree(tiny.path(), copied)
    (copied / "notes.txt").write_text("no part of the model")
    folder = load_teacher(f"hf:{copied}", document)
    assert (folder.reference, folder.revision) == (f"hf:{copied}", embedded.revision)
    (a,), (b,) = (list(teacher.generate([Request("a", ASKED, 20)])) for teacher in (embedded, folder))
    assert a.text == b.text != ""


@pytest.mark.parametrize("changed", ["model.safetensors", "config.json", "chat_template.jinja"])
def test_a_revision_changes_with_the_model(tmp_path: Path, changed: str) -> None:
    shutil.copytree(tiny.path(), tmp_path / "copy")
    before = content_hash(tmp_path / "copy")
    file = tmp_path / "copy" / changed
    if changed == "model.safetensors":
        tensors = load_file(file)
        tensors["model.norm.weight"][0] += 1  # same names, shapes and size
        save_file(tensors, file, metadata={"format": "pt"})
    else:
        file.write_text(file.read_text() + "\n")
    os.utime(file, (0, 0))
    assert before == content_hash(tiny.path()) != content_hash(tmp_path / "copy")


def test_self_is_the_documents_adapter(document: Document, random_base: Path) -> None:
    revisions = []
    for weights in (1, 2):
        version = train(str(random_base), weights)
        teacher = load_teacher("self", document)
        assert (teacher.reference, teacher.context) == ("self", 512)
        revisions.append(teacher.revision)
        (reply,) = teacher.generate([Request("a", ASKED, 8)])
        tokenizer = load_tokenizer(str(random_base))
        prompt = tokenizer.apply_chat_template(ASKED, add_generation_prompt=True, return_dict=False)
        (untaught,) = generate(load_base(str(random_base)), tokenizer, [prompt], 8)
        assert reply.text != untaught
        assert version.name in teacher.revision
    assert revisions[0].startswith("v0001-")
    assert revisions[1].startswith("v0002-")
    assert revisions[0][6:] != revisions[1][6:]


def test_self_without_a_chat_template_is_refused_before_loading_weights(document: Document, random_base: Path) -> None:
    (train(str(random_base), 1) / "chat_template.jinja").unlink()
    with pytest.raises(DlmError, match="no chat template"):
        inspect_teacher("self", document)


def test_self_without_an_adapter_has_a_hint(document: Document) -> None:
    with pytest.raises(DlmError, match=r"No adapter.*dlm-trl train FILE.*--teacher hf:") as caught:
        load_teacher("self", document)
    assert caught.value.kind == "AdapterError"


def test_a_named_adapter(random_base: Path) -> None:
    adapters = "training:\n  adapters: {wax: {}, bees: {}}\n---\n"
    named = parse(f"---\ndlm_id: {DLM_ID}\nbase_model: tiny\n{adapters}Prose.\n")
    with pytest.raises(DlmError, match=r"No adapter of this document.*train FILE --adapter_name wax"):
        load_teacher("self", named)
    train(str(random_base), 1, "bees")
    teacher = load_teacher("self#bees", named)
    assert (teacher.reference, teacher.revision) == ("self#bees", inspect_teacher("self#bees", named).revision)
    for reference, problem in (
        ("self", r"have names: bees.*self#NAME"),
        ("self#wax", r"No adapter 'wax'.*--adapter_name wax"),
        ("self#x", "declares no adapter 'x'; declared: wax, bees"),
    ):
        with pytest.raises(DlmError, match=problem):
            load_teacher(reference, named)


@pytest.mark.parametrize("trained", [True, False])
def test_quantised(document: Document, random_base: Path, trained: bool) -> None:
    if trained:
        train(str(random_base), 1)
    reference = "self" if trained else f"hf:{random_base}"
    whole, small = load_teacher(reference, document), load_teacher(reference, document, quantization="4bit")
    assert small.model.get_memory_footprint() < whole.model.get_memory_footprint()
    assert small.revision == f"{whole.revision}-4bit"
    (reply,) = small.generate([Request("a", ASKED, 4)])
    assert reply.error is None


def test_self_is_quantised_as_it_was_trained(document: Document, random_base: Path) -> None:
    version = train(str(random_base), 1)
    step = {"step": "train", "base": str(random_base), "rows": {}, "adapter": {"type": "lora", "rank": 8}, "seed": 0}
    rest = {"base_fingerprint": None, "document": None, "task": None, "quantization": "4bit"}
    lineage.write(version, [step | rest])
    teacher = load_teacher("self", document)
    assert teacher.model.is_loaded_in_4bit
    assert teacher.revision == inspect_teacher("self", document).revision == f"v0001-{content_hash(version)}-4bit"


def test_a_model_of_the_hub_has_its_commit_as_revision(tmp_path: Path) -> None:
    # A cache as the Hub's client writes it, and no network.
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "hub" / "models--bread--tiny"
    shutil.copytree(tiny.path(), cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    program = (
        "import sys; from dlm_trl.notes import parse; from dlm_trl.teachers.load import load_teacher\n"
        "teacher = load_teacher('hf:bread/tiny', parse(sys.argv[1])); print(teacher.reference, teacher.revision)"
    )
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program, DOCUMENT], env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.stdout.split() == ["hf:bread/tiny", commit], done.stderr[-2000:]


@pytest.mark.parametrize(
    "reference",
    ["", "tiny", "hf", "hf:", "hf: ", "self:", "self:x", "gpt:4", "openai:", "anthropic:", "vllm-server:",
     "vllm-server:#model", "vllm-server:http://a,,http://b"],
)  # fmt: skip
@pytest.mark.parametrize("function", [load_teacher, inspect_teacher])
def test_other_references_are_refused_with_the_list_of_forms(
    document: Document, reference: str, function: Callable[[str, Document], object]
) -> None:
    with pytest.raises(DlmError) as caught:
        function(reference, document)
    assert caught.value.kind == "UsageError"
    for form in ("self", "hf:<id or folder>", "hf:tiny", "openai:", "anthropic:", "vllm-server:<url>"):
        assert form in str(caught.value)


def test_a_malformed_url_is_refused_without_a_request(document: Document) -> None:
    with pytest.raises(DlmError, match="http://host:port"):
        inspect_teacher("vllm-server:http://127.0.0.1:9,localhost:9", document)


def test_unusable_models_are_one_line_errors(
    document: Document, tmp_path: Path, random_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    mute = tmp_path / "mute"
    shutil.copytree(random_base, mute)
    (mute / "chat_template.jinja").unlink()
    (mute / "model.safetensors").unlink()  # the error comes before weights are needed
    empty = tmp_path / "empty"
    empty.mkdir()
    for name, kind, words in (
        (str(mute), "ChatTemplateError", "no chat template"),
        (str(empty), "BaseModelError", "config.json is missing"),
        ("bread/no-such-model", "BaseModelError", "Can't load"),
    ):
        with pytest.raises(DlmError, match=words) as caught:
            load_teacher(f"hf:{name}", document)
        assert caught.value.kind == kind
        assert "\n" not in str(caught.value)


def test_without_a_configuration_no_tokenizer_is_requested(document: Document, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.delattr("transformers.AutoTokenizer.from_pretrained")
    with pytest.raises(DlmError, match="bread/no-such-model"):
        load_teacher("hf:bread/no-such-model", document)


def test_servers_get_their_model_address_and_concurrency(document: Document, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a-key")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "a-key")
    for reference in ("openai:org/gpt:4", "anthropic:claude"):
        teacher = load_teacher(reference, document, concurrency=3)
        assert (teacher.reference, teacher.revision) == (reference, reference.partition(":")[2])
        assert teacher.context is None
    with pytest.raises(DlmError) as caught:
        load_teacher("vllm-server:http://127.0.0.1:9, http://127.0.0.1:9/v1#org/model", document)
    assert caught.value.kind != "UsageError"
    assert "127.0.0.1:9" in str(caught.value)


def test_importing_the_module_loads_nothing_heavy() -> None:
    program = "import sys, dlm_trl.teachers.load as _; print({'torch', 'openai', 'anthropic'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
