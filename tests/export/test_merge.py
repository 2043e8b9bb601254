"""Merges equal PEFT's for every kind of adapter, and the result loads anywhere."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import AdaLoraConfig, LoraConfig, PeftModel
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from dlm_trl.export.merge import merge
from dlm_trl.models import lineage

TOKENS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])
LORA = {"task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 6, "target_modules": "all-linear"}
ADALORA = {"task_type": "CAUSAL_LM", "init_r": 6, "target_r": 3, "total_step": 10, "target_modules": "all-linear"}
CONV1D = ["c_attn", "c_proj", "c_fc"]
PATTERNS = {
    "rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 7},
    "alpha_pattern": {"k_proj": 32, r".*\.0\.mlp\.down_proj": 3},
}


def prune(model: PeftModel) -> None:
    """Prune like AdaLoRA's allocator: some ranks of each module, and all ranks of one module."""
    pattern = {}
    for number, (name, module) in enumerate(model.base_model.model.named_modules()):
        if hasattr(module, "lora_E"):
            kept = [number % 3 != k % 3 and name.count("mlp.up_proj") == 0 for k in range(6)]
            pattern[f"{name}.lora_E.default"] = kept
    model.peft_config["default"].rank_pattern = pattern


def halve(model: PeftModel) -> None:
    """Save the adapter in 16 bit."""
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.bfloat16()


def train_embeddings(model: PeftModel) -> None:
    """PEFT also saves adapted embeddings themselves, and loads them from the adapter."""
    embeddings = model.get_input_embeddings().base_layer.weight
    embeddings.data = torch.randn_like(embeddings)


CASES = {
    "lora": ("llama", LoraConfig(**LORA)),
    "rslora": ("llama", LoraConfig(**LORA, use_rslora=True)),
    "dora": ("llama", LoraConfig(**LORA, use_dora=True)),
    "patterns": ("llama", LoraConfig(**LORA, **PATTERNS)),
    "patterns, rslora": ("llama", LoraConfig(**LORA, **PATTERNS, use_rslora=True)),
    "regex": ("llama", LoraConfig(**LORA | {"target_modules": r".*layers\.1\..*(q|up)_proj"})),
    "some layers": ("llama", LoraConfig(**LORA | {"target_modules": ["v_proj"]}, layers_to_transform=[1])),
    "all but": ("llama", LoraConfig(**LORA, exclude_modules=["o_proj"])),
    "orthogonal": ("llama", LoraConfig(**LORA, init_lora_weights="orthogonal")),
    "adalora": ("llama", AdaLoraConfig(**ADALORA)),
    "pruned adalora": ("llama", AdaLoraConfig(**ADALORA), prune),
    "head": ("llama", LoraConfig(**LORA | {"target_modules": ["lm_head", "q_proj"]})),
    "embeddings": ("llama", LoraConfig(**LORA | {"target_modules": ["embed_tokens", "q_proj"]})),
    "embeddings of its own": ("llama", LoraConfig(**LORA | {"target_modules": ["embed_tokens"]}), train_embeddings),
    "dora on embeddings": ("llama", LoraConfig(**LORA | {"target_modules": ["embed_tokens"]}, use_dora=True)),
    "whole modules": ("llama", LoraConfig(**LORA, modules_to_save=["lm_head", "input_layernorm"])),
    "16-bit adapter": ("llama", LoraConfig(**LORA), halve),
    "bias": ("qwen2", LoraConfig(**LORA, bias="all")),
    "lora's biases": ("qwen2", LoraConfig(**LORA | {"target_modules": ["q_proj"]}, bias="lora_only")),
    "conv1d": ("gpt2", LoraConfig(**LORA | {"target_modules": CONV1D}, fan_in_fan_out=True)),
    "conv1d, rslora": ("gpt2", LoraConfig(**LORA | {"target_modules": CONV1D}, use_rslora=True, bias="all")),
    "conv1d, dora": ("gpt2", LoraConfig(**LORA | {"target_modules": CONV1D}, use_dora=True)),
    "conv1d, adalora": ("gpt2", AdaLoraConfig(**ADALORA | {"target_modules": CONV1D}), prune),
    "tied, untouched": ("tied", LoraConfig(**LORA)),
}


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors in a folder's safetensors files."""
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            found |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    return found


@pytest.mark.parametrize("case", CASES)
def test_the_merge_equals_pefts(
    case: str, make_base: Callable[..., Path], make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    kind, config, *change = CASES[case]
    base = make_base(kind)
    adapter = make_adapter(base, config, *change)
    merged = tensors(merge(adapter, tmp_path / "merged"))
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    expected = model.merge_and_unload(safe_merge=True).state_dict()
    before = tensors(base)
    assert merged.keys() == before.keys()
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6)
    changed = [name for name in merged if not torch.equal(merged[name], before[name])]
    step = json.loads((tmp_path / "merged" / "lineage.json").read_text())["steps"][-1]
    assert changed  # the adapter changed something, and the lineage lists it
    assert set(changed) <= set(step["merged"])


@pytest.mark.parametrize("targets", [["lm_head"], ["embed_tokens"], ["lm_head", "embed_tokens", "q_proj"]])
@pytest.mark.parametrize("whole", [False, True], ids=["lora", "whole"])
def test_tied_embeddings_become_separate_if_the_adapter_changes_one(
    targets: list[str], whole: bool, make_base: Callable[..., Path], make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    settings = {"target_modules": ["q_proj"], "modules_to_save": targets} if whole else {"target_modules": targets}
    base = make_base("tied")
    if whole and "q_proj" in targets:
        targets.remove("q_proj")
    adapter = make_adapter(base, LoraConfig(**LORA | settings))
    merged = merge(adapter, tmp_path / "merged")
    assert tensors(merged).keys() == tensors(base).keys() | {"lm_head.weight"}
    assert_same_logits(merged, base, adapter)


def test_a_base_without_its_prefix_keeps_its_names(
    make_base: Callable[..., Path], make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    base = tmp_path / "base"  # stored like openai-community/gpt2
    shutil.copytree(make_base("gpt2"), base)
    stored = {name.removeprefix("transformer."): tensor.clone() for name, tensor in tensors(base).items()}
    save_file(stored, base / "model.safetensors", metadata={"format": "pt"})
    adapter = make_adapter(base, LoraConfig(**LORA | {"target_modules": [*CONV1D, "wte"]}))
    merged = merge(adapter, tmp_path / "merged")
    assert tensors(merged).keys() == stored.keys() | {"lm_head.weight"}
    assert_same_logits(merged, base, adapter)


def assert_same_logits(merged: Path, base: Path, adapter: Path) -> None:
    """Merged weights, loaded with transformers, against the unmerged adapter on its base."""
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()
    with torch.no_grad():
        expected = adapted(TOKENS).logits
        torch.testing.assert_close(
            AutoModelForCausalLM.from_pretrained(merged)(TOKENS).logits, expected, rtol=1e-4, atol=1e-4
        )
        base_model = AutoModelForCausalLM.from_pretrained(base)
        assert not torch.allclose(base_model(TOKENS).logits, expected, atol=0.1)


@pytest.mark.parametrize(("stored", "dtype"), [("bfloat16", None), ("float32", "bfloat16"), ("bfloat16", "float16")])
def test_sums_are_in_float32_and_rounded_once(
    stored: str, dtype: str | None, make_base: Callable[..., Path], make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    base = make_base("llama", getattr(torch, stored))
    adapter = make_adapter(base, LoraConfig(**LORA))
    merged = merge(adapter, tmp_path / "merged", dtype=dtype)
    exact = tensors(merge(adapter, tmp_path / "exact", dtype="float32"))
    expected = dtype or stored
    for name, tensor in tensors(merged).items():
        assert torch.equal(tensor, exact[name].to(getattr(torch, expected)))
    assert json.loads((merged / "config.json").read_text())["dtype"] == expected
    assert AutoModelForCausalLM.from_pretrained(merged).dtype == getattr(torch, expected)


@pytest.mark.parametrize("shard_size", ["1KB", "30KB", "100KB"])
def test_shards_keep_to_their_size_and_have_the_same_tensors(
    shard_size: str, make_base: Callable[..., Path], make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    adapter = make_adapter(make_base("llama"), LoraConfig(**LORA))
    whole = tensors(merge(adapter, tmp_path / "whole"))
    merged = merge(adapter, tmp_path / "merged", shard_size=shard_size)
    index = json.loads((merged / "model.safetensors.index.json").read_text())
    limit = 1000 * int(shard_size.removesuffix("KB"))
    for file in merged.glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            names = list(opened.keys())
        assert len(names) == 1 or sum(whole[name].nbytes for name in names) <= limit
        assert all(index["weight_map"][name] == file.name for name in names)
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in whole.values())
    parts = tensors(merged)
    assert parts.keys() == whole.keys()
    assert all(torch.equal(parts[name], whole[name]) for name in whole)
    loaded = AutoModelForCausalLM.from_pretrained(merged).state_dict()
    assert all(torch.equal(loaded[name], whole[name]) for name in whole)


def test_a_fresh_process_loads_it_with_plain_transformers(
    make_base: Callable[..., Path], make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    base = make_base("tied")
    adapter = make_adapter(base, LoraConfig(**LORA, use_dora=True))
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = "{{ messages[0]['content'] }}!"
    tokenizer.save_pretrained(adapter)
    merged = merge(adapter, tmp_path / "merged")
    program = f"""
import json
from transformers import AutoModelForCausalLM, AutoTokenizer
model, tokenizer = (kind.from_pretrained({str(merged)!r}) for kind in (AutoModelForCausalLM, AutoTokenizer))
ids = tokenizer.apply_chat_template([{{"role": "user", "content": "What lifts the dough?"}}], return_tensors="pt")
written = model.generate(**ids, do_sample=False, max_new_tokens=12)
print(json.dumps([written[0].tolist(), tokenizer.chat_template, model.generation_config.eos_token_id]))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    written, template, end = json.loads(run.stdout.splitlines()[-1])
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    ids = tokenizer("What lifts the dough?!", return_tensors="pt")
    assert written == adapted.generate(**ids, do_sample=False, max_new_tokens=12)[0].tolist()
    assert template == tokenizer.chat_template
    assert end == tokenizer.eos_token_id


def test_the_lineage_is_continued(
    make_base: Callable[..., Path],
    make_adapter: Callable[..., Path],
    training_step: Callable[[Path], dict[str, object]],
    tmp_path: Path,
) -> None:
    base = make_base("llama")
    adapter = make_adapter(base, AdaLoraConfig(**ADALORA), prune)
    train = training_step(base)
    lineage.write(adapter, [train])
    merged = merge(adapter, tmp_path / "merged", shard_size="100KB")
    first, step = lineage.read(merged)
    assert first == train
    assert step["adapter"] == {
        "adapter_config.json": lineage.file_hash(adapter / "adapter_config.json"),
        "adapter_model.safetensors": lineage.file_hash(adapter / "adapter_model.safetensors"),
        "type": "adalora",
        "rank": 6,
    }
    assert (step["base"], step["base_revision"], step["dtype"]) == (str(base), None, "float32")
    assert len(step["merged"]) == 14
    assert first["document"] in (merged / "README.md").read_text()
    assert step["shards"] == {file.name: lineage.file_hash(file) for file in merged.glob("*.safetensors")}


KILLED = """
import sys, time
from pathlib import Path
from dlm_trl.export import merge
write = merge._write_shard
def slowly(*arguments):
    write(*arguments)
    print("shard", flush=True)
    time.sleep(60)
merge._write_shard = slowly
merge.merge(Path(sys.argv[1]), Path(sys.argv[2]), shard_size="100KB")
"""


def test_a_killed_merge_leaves_the_old_model_whole(
    make_base: Callable[..., Path], make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    adapter = make_adapter(make_base("llama"), LoraConfig(**LORA))
    out = merge(adapter, tmp_path / "merged", dtype="bfloat16")
    before = {file: file.read_bytes() for file in out.iterdir()}
    command = [sys.executable, "-c", KILLED, str(adapter), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any("shard" in line for line in process.stdout)
        assert len(list((tmp_path / ".merged.partial").glob("*.safetensors"))) == 1
        process.kill()
    assert {file: file.read_bytes() for file in out.iterdir()} == before
    merge(adapter, out)  # leftovers of the killed one don't matter
    assert tensors(out)["model.norm.weight"].dtype == torch.float32
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "merged"]
