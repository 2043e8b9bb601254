"""AWQ: rejected inputs (without the extra), and small models that are really quantised and reloaded (`quant`)."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from dlm_trl import tiny
from dlm_trl.evaluation.perplexity import general_text, perplexity
from dlm_trl.export import awq
from dlm_trl.export.packing import from_tensors
from dlm_trl.export.rtn import round_to_nearest
from dlm_trl.models import lineage
from dlm_trl.models.registry import HUB_IDS
from dlm_trl.notes import DlmError

needs_extra = pytest.mark.skipif(find_spec("awq") is None, reason="needs the extra quant: make test-quant")
NOTES = Path(__file__).parents[2] / "recipes" / "notes.dlm"
SIZES: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "max_position_embeddings": 256}
KINDS = {
    "llama": LlamaConfig(**SIZES),
    "tied": LlamaConfig(**SIZES | {"num_key_value_heads": 4}, tie_word_embeddings=True),
    "mistral": MistralConfig(**SIZES, sliding_window=128),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=64),
    "phi3": Phi3Config(**SIZES, pad_token_id=0),
}


@pytest.fixture(scope="session")
def make_model(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """make_model(kind): the folder of a model with random weights and some channels with large activations."""
    tokenizer = AutoTokenizer.from_pretrained(random_base)
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            config = KINDS[kind]
            config.vocab_size, config.eos_token_id = len(tokenizer), tokenizer.eos_token_id
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config)
            for name, parameter in model.named_parameters():
                if "norm" in name:
                    torch.nn.init.uniform_(parameter, 0.2, 1.0)
                    parameter.data[::16] *= 8
                else:
                    torch.nn.init.normal_(parameter, std=0.15)
            made[kind] = tmp_path_factory.mktemp(kind)
            model.save_pretrained(made[kind])
            tokenizer.save_pretrained(made[kind])
        return made[kind]

    return make


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    file.write_text("".join(json.dumps({"text": f"Number {n} is followed by {n + 1}."}) + "\n" for n in range(200)))
    return file


@pytest.fixture(scope="session")
def quantized(
    make_model: Callable[..., Path], rows: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """quantized(kind): the folder of the quantised model, made once for all tests; "base" is the embedded one."""
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            out = tmp_path_factory.mktemp("awq") / kind
            if kind == "base":
                made[kind] = awq.quantize(tiny.path(), out, NOTES)
            else:
                made[kind] = awq.quantize(make_model(kind), out, rows, samples=8)
        return made[kind]

    return make


def unpacked(folder: Path, source: Path) -> PreTrainedModel:
    """The model with the packed weights unpacked by this package, in float32."""
    tensors = load_file(folder / "model.safetensors")
    state = {name: tensor.float() for name, tensor in tensors.items() if tensor.is_floating_point()}
    for name in [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]:
        del state[f"{name}.scales"]
        packed = {part: tensors[f"{name}.{part}"] for part in ("qweight", "qzeros", "scales")}
        state[f"{name}.weight"] = from_tensors(**packed).dequantize().float()
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    return model.eval()


def python(program: str, *arguments: str) -> str:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


# Without the extra


def refused(model: Path, out: Path, calibration: Path, kind: str, message: str, **options: Any) -> None:
    with pytest.raises(DlmError, match=message) as caught:
        awq.quantize(model, out, calibration, **options)
    assert caught.value.kind == kind
    assert not out.exists() or out == model


def test_an_unsupported_architecture_is_rejected(make_base: Callable[..., Path], rows: Path, tmp_path: Path) -> None:
    refused(
        make_base("gpt2"), tmp_path / "out", rows, "QuantizationError", "'gpt2'.*llama, mistral, qwen2, qwen3, phi3"
    )


def test_only_16_bit_models_are_accepted(make_model: Callable[..., Path], rows: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(make_model("llama"), tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "awq"}}))
    refused(folder, tmp_path / "out", rows, "QuantizationError", "already quantised")
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text("{}")
    refused(folder, tmp_path / "out", rows, "QuantizationError", "is an adapter.*dlm-trl merge")
    refused(tmp_path / "none", tmp_path / "out", rows, "BaseModelError", "Unknown base model")


def test_groups_must_divide_the_matrices(make_base: Callable[..., Path], rows: Path, tmp_path: Path) -> None:
    narrow = make_base("llama")
    refused(
        narrow, tmp_path / "out", rows, "QuantizationError", r"128 × 64: .* size 128.*--group-size 64", group_size=128
    )
    refused(narrow, tmp_path / "out", rows, "UsageError", "group_size is 48.*128, 64, 32", group_size=48)
    assert [awq.check(narrow, size).group_size for size in (64, None)] == [64, 64]
    tied = make_base("tied")  # 96 wide
    refused(tied, tmp_path / "out", rows, "QuantizationError", "--group-size 32", group_size=64)
    assert awq.check(tied).group_size == 32


def test_the_output_cannot_replace_the_input(make_model: Callable[..., Path], rows: Path, tmp_path: Path) -> None:
    model = make_model("llama")
    refused(model, model, rows, "OutputError", "overlaps with the input")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("…")
    with pytest.raises(DlmError, match="isn't an earlier result"):
        awq.quantize(model, tmp_path / "mine", rows)


def test_calibration_is_read_before_anything_is_written(
    make_model: Callable[..., Path], rows: Path, tmp_path: Path
) -> None:
    model = make_model("llama")
    (tmp_path / "broken.jsonl").write_text('{"text": "a"}\n{\n')
    refused(model, tmp_path / "out", tmp_path / "broken.jsonl", "CalibrationError", r"broken\.jsonl:2:")
    other = Path(shutil.copytree(model, tmp_path / "model"))
    for file in tiny.path().glob("tokenizer*"):
        shutil.copy(file, other)
    refused(other, tmp_path / "out", rows, "QuantizationError", "gives token .* embeddings for 384")


@pytest.mark.parametrize(
    ("file", "changed", "message"),
    [
        ("config.json", {"num_hidden_layers": 3}, r"don't fit config\.json: model\.layers\.2.* and \d+ more"),
        ("config.json", {"vocab_size": 1000}, r"don't fit config\.json: model\.embed_tokens\.weight"),
        ("config.json", {"num_attention_heads": "many"}, r"can't build a model from config\.json"),
        ("config.json", None, r"config\.json"),
        ("generation_config.json", None, r"generation_config\.json"),
    ],
)
def test_a_damaged_folder_is_rejected_before_the_work(
    make_model: Callable[..., Path], rows: Path, tmp_path: Path, file: str, changed: dict[str, Any] | None, message: str
) -> None:
    folder = Path(shutil.copytree(make_model("llama"), tmp_path / "model"))
    text = (folder / file).read_text()
    (folder / file).write_text(json.dumps(json.loads(text) | changed) if changed else text[: len(text) // 2])
    with pytest.raises(DlmError, match=message):
        awq.quantize(folder, tmp_path / "out", rows)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_without_the_extra_it_says_how_to_install_it(
    make_model: Callable[..., Path], rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlm_trl.notes.extras.find_spec", lambda name: None)
    refused(make_model("llama"), tmp_path / "out", rows, "MissingExtraError", r"pip install .*\[quant\]")


def test_blocks_keep_within_context_and_window(make_model: Callable[..., Path]) -> None:
    assert [awq.check(make_model(kind)).length for kind in ("llama", "mistral")] == [256, 128]
    assert awq.check(tiny.path()).length == 512


def test_unsupported_models_are_in_the_registry() -> None:
    assert set(awq.CANNOT) < set(HUB_IDS)
    assert not any(reason.split(":")[0] in awq.ARCHITECTURES for reason in awq.CANNOT.values())


# With it


@needs_extra
@pytest.mark.parametrize("kind", KINDS)
def test_the_folder_has_all_files_for_serving(
    quantized: Callable[[str], Path], make_model: Callable[..., Path], kind: str
) -> None:
    source, folder = make_model(kind), quantized(kind)
    config = json.loads((folder / "config.json").read_text())
    expected = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
    assert expected.items() <= config["quantization_config"].items() and config["dtype"] == "float16"
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (folder / name).read_bytes() == (source / name).read_bytes()
    tensors = load_file(folder / "model.safetensors")
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"torch.float16", "torch.int32"}
    assert ("lm_head.weight" in tensors) == (kind != "tied")
    assert "awq" not in sys.modules  # its patches stay in the worker process

    (step,) = lineage.read(folder)
    sizes = [tensor.numel() * tensor.element_size() for tensor in tensors.values()]
    assert step["bytes"]["predicted"] == step["bytes"]["written"] == sum(sizes)
    assert step["not_quantized"] == ["model.embed_tokens"] if kind == "tied" else ["lm_head", "model.embed_tokens"]
    assert step["calibration"]["sha256"] == lineage.file_hash(Path(step["calibration"]["file"]))


@needs_extra
@pytest.mark.parametrize("kind", KINDS)
def test_smoothing_moves_scales_from_norms_to_matrices(
    quantized: Callable[[str], Path], make_model: Callable[..., Path], kind: str
) -> None:
    (step,) = lineage.read(quantized(kind))
    before, after = load_file(make_model(kind) / "model.safetensors"), load_file(quantized(kind) / "model.safetensors")
    assert step["smoothed"] == sum(group["ratio"] > 0 for group in step["smoothing"].values()) > 0
    norms = [name for name in step["smoothing"] if name.endswith("norm")]
    assert len(norms) == 4
    for name in norms:
        scales = step["smoothing"][name]["scales"]
        divided = before[f"{name}.weight"] / after[f"{name}.weight"].float()
        assert divided.min().item() == pytest.approx(scales["min"], rel=2e-3)
        assert divided.max().item() == pytest.approx(scales["max"], rel=2e-3)
    assert all(group["loss"] <= group["loss_of_rounding"] for group in step["smoothing"].values())


RELOAD = """
import sys, torch
from transformers import AutoModelForCausalLM
for folder in sys.argv[2:]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    ids = torch.load(sys.argv[1])
    with torch.no_grad():
        logits = model(ids).logits
        greedy = model.generate(ids[:1, :8], max_new_tokens=16, do_sample=False, pad_token_id=0)
    torch.save((logits, greedy), folder + "/reloaded.pt")
"""


@needs_extra
def test_plain_transformers_loads_the_result_in_a_fresh_process(
    quantized: Callable[[str], Path], make_model: Callable[..., Path], tmp_path: Path
) -> None:
    ids = torch.randint(3, 384, (2, 64), generator=torch.Generator().manual_seed(0))
    torch.save(ids, tmp_path / "ids.pt")
    python(RELOAD, str(tmp_path / "ids.pt"), *(str(quantized(kind)) for kind in KINDS))
    for kind in KINDS:
        logits, greedy = torch.load(quantized(kind) / "reloaded.pt")
        with torch.no_grad():
            source = AutoModelForCausalLM.from_pretrained(make_model(kind)).eval()(ids).logits
            own = unpacked(quantized(kind), make_model(kind))(ids).logits
            rounded = AutoModelForCausalLM.from_pretrained(make_model(kind)).eval()
            round_to_nearest(rounded)
            plain = rounded(ids).logits
        assert greedy.shape[1] > 8
        # gptqmodel multiplies in bfloat16 on a CPU, but 4 bits lose much more than that.
        assert divergence(own, logits) < 0.1 * divergence(source, own), kind
        assert divergence(source, own) < divergence(source, plain), kind


def divergence(expected: torch.Tensor, found: torch.Tensor) -> float:
    """Mean Kullback-Leibler divergence, in nats per token."""
    expected, found = expected.float().log_softmax(-1), found.float().log_softmax(-1)
    return (expected.exp() * (expected - found)).sum(-1).mean().item()


EXACT = """
import json, sys, torch
from dlm_trl.export import awq_worker

class WithoutRounding(awq_worker.Quantizer):
    def _apply_quant(self, *args): pass
    def _search_best_clip(self, *args): return []

awq_worker.Quantizer = WithoutRounding
blocks = torch.randint(3, 384, (4, 128), generator=torch.Generator().manual_seed(0))
for folder in sys.argv[1:]:
    model = awq_worker.load(folder)
    with torch.no_grad():
        before = model(blocks).logits
        smoothing = awq_worker.quantize(model, blocks.tolist(), 128)
        change = (model(blocks).logits - before).abs().max().item() / before.abs().max().item()
    assert all(group["scales"]["max"] > 1.01 for group in smoothing.values()), smoothing
    print(change)
"""


@needs_extra
def test_smoothing_alone_does_not_change_the_model(make_model: Callable[..., Path]) -> None:
    changes = list(map(float, python(EXACT, *(str(make_model(kind)) for kind in KINDS)).split()))
    assert len(changes) == len(KINDS) and max(changes) < 1e-4, dict(zip(KINDS, changes, strict=True))


CLIP = """
import torch
from dlm_trl.export import awq_worker

def of(cls):
    made = object.__new__(cls)
    made.group_size, made.zero_point, made.w_bit = 64, True, 4
    return made

generator = torch.Generator().manual_seed(0)
for outputs in (64, 256):
    weight = torch.randn(outputs, 192, generator=generator) ** 3
    inputs = torch.randn(9, 171, 192, generator=generator) * torch.rand(192, generator=generator)
    ours = of(awq_worker.Quantizer)._compute_best_clip(weight, inputs)
    theirs = of(awq_worker.autoawq.AwqQuantizer)._compute_best_clip(weight, inputs)
    assert ours.shape == theirs.shape
    same = (ours == theirs).float().mean().item()
    assert same > 0.99, same  # two candidates can be equally good up to rounding
    print(same)
"""


@needs_extra
def test_the_faster_clipping_agrees_with_autoawq() -> None:
    assert len(python(CLIP).split()) == 2


@needs_extra
def test_the_same_seed_gives_the_same_file(
    quantized: Callable[[str], Path], make_model: Callable[..., Path], rows: Path, tmp_path: Path
) -> None:
    again = awq.quantize(make_model("llama"), tmp_path / "again", rows, samples=8)
    assert (again / "model.safetensors").read_bytes() == (quantized("llama") / "model.safetensors").read_bytes()
    other = awq.quantize(make_model("llama"), tmp_path / "again", rows, samples=8, seed=1)
    assert (other / "model.safetensors").read_bytes() != (quantized("llama") / "model.safetensors").read_bytes()


ANSWER = """
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer
from dlm_trl.evaluation.perplexity import general_text, perplexity
found = []
for folder in sys.argv[1:3]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    answers = []
    for question in sys.argv[3:]:
        chat = [{"role": "user", "content": question}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        out = model.generate(**ids, max_new_tokens=32, do_sample=False)[0, ids["input_ids"].shape[1]:]
        answers.append(tokenizer.decode(out))
    found.append((perplexity(model, tokenizer, general_text(), 512), answers))
print("found:" + json.dumps(found))
"""


@needs_extra
def test_the_embedded_base_keeps_its_perplexity_and_still_answers(quantized: Callable[[str], Path]) -> None:
    folder = quantized("base")
    questions = [
        "What is discard?",
        "What is a starter?",
        "What lifts the dough?",
        "What is feeding?",
        "What is hooch?",
    ]
    questions += ["How long does a new starter need?", "What gives sourdough its sour taste?"]
    output = python(ANSWER, str(tiny.path()), str(folder), *questions).split("found:")[1]
    (source, answers), (reloaded, answers_of_awq) = json.loads(output)
    rounded = AutoModelForCausalLM.from_pretrained(tiny.path()).eval()
    round_to_nearest(rounded)
    plain = perplexity(rounded, AutoTokenizer.from_pretrained(folder), general_text(), 512)
    assert source < plain < 1.1 * source
    assert reloaded < plain and reloaded < 1.03 * source
    # The base doesn't know much about bread, so most words of an answer are a toss-up, but not its beginning.
    begun = [[answer.split()[:2] for answer in each] for each in (answers, answers_of_awq)]
    assert sum(map(list.__eq__, *begun)) >= 4, (answers, answers_of_awq)
    assert sum(answer.endswith("<|im_end|>") for answer in answers_of_awq) >= 5, answers_of_awq


@needs_extra
@pytest.mark.parametrize(
    ("tensor", "value", "message"),
    [
        ("model.layers.1.mlp.up_proj.weight", float("nan"), "AssertionError"),  # autoawq's
        ("model.embed_tokens.weight", 1e5, "ValueError: not finite in float16: model.embed_tokens.weight"),
    ],
)
def test_a_failed_worker_shows_its_last_lines_and_leaves_nothing(
    make_model: Callable[..., Path], rows: Path, tmp_path: Path, tensor: str, value: float, message: str
) -> None:
    folder = Path(shutil.copytree(make_model("llama"), tmp_path / "model"))
    tensors = load_file(folder / "model.safetensors")
    tensors[tensor][0, 0] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DlmError, match=rf"(?s)exited with code 1:.*{message}") as caught:
        awq.quantize(folder, tmp_path / "out", rows, samples=8)
    assert caught.value.kind == "ExportError"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@needs_extra
def test_a_killed_run_leaves_the_old_result_whole(
    quantized: Callable[[str], Path], make_model: Callable[..., Path], rows: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(quantized("llama"), tmp_path / "out"))
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    program = "import sys; from pathlib import Path; from dlm_trl.export.awq import quantize; " + (
        "quantize(*map(Path, sys.argv[1:]))"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tiny.path()), str(out), str(NOTES)]) as process:
        worker = _wait_for(lambda: _child(process.pid))
        _wait_for(lambda: (tmp_path / ".out.partial").is_dir())
        time.sleep(0.5)
        os.kill(process.pid, signal.SIGKILL)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    _wait_for(lambda: not Path(f"/proc/{worker}").exists())  # it exits at its next layer
    awq.quantize(make_model("llama"), out, rows, samples=8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def _child(pid: int) -> int | None:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else None


def _wait_for(condition: Callable[[], Any]) -> Any:
    while not (found := condition()):
        time.sleep(0.05)
    return found
