"""GGUF files as bases: converted once and atomically; files that can't be trained give a one-line error."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, quants
from transformers import AutoModelForCausalLM

from dlm_trl.models import gguf
from dlm_trl.models.load import load_base, load_tokenizer
from dlm_trl.models.registry import ModelRef
from dlm_trl.notes import DlmError
from tests.models.gguf_files import write_gguf


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DLM_HOME", str(tmp_path / "home"))
    gguf._converted.cache_clear()
    return tmp_path / "home" / "models"


@pytest.fixture
def file(tmp_path: Path, random_base: Path, home: Path) -> Path:
    return write_gguf(tmp_path / "random.gguf", random_base)


def test_weights_equal_the_files(file: Path, random_base: Path) -> None:
    model, original = load_base(str(file)), AutoModelForCausalLM.from_pretrained(random_base)
    assert model.dtype is torch.bfloat16
    for name, weight in original.state_dict().items():
        expected = weight
        if weight.ndim > 1:
            blocks = quants.quantize(weight.numpy(), GGMLQuantizationType.Q4_1)
            expected = torch.from_numpy(quants.dequantize(blocks, GGMLQuantizationType.Q4_1).copy())
        assert torch.equal(model.state_dict()[name], expected.bfloat16()), name


def test_tokenizer_and_chat_template_are_converted(file: Path, random_base: Path) -> None:
    ours, theirs = load_tokenizer(str(file)), load_tokenizer(str(random_base))
    text = "A starter is a mix of flour and water; who bakes it? <|im_end|>"
    assert ours(text)["input_ids"] == theirs(text)["input_ids"]
    assert ours.chat_template == theirs.chat_template
    assert (ours.eos_token_id, ours.pad_token_id) == (theirs.eos_token_id, theirs.pad_token_id)


def test_an_unquantised_file_keeps_its_precision(tmp_path: Path, random_base: Path, home: Path) -> None:
    file = write_gguf(tmp_path / "plain.gguf", random_base, GGMLQuantizationType.F32)
    model, original = load_base(str(file)), AutoModelForCausalLM.from_pretrained(random_base)
    assert all(torch.equal(model.state_dict()[name], weight) for name, weight in original.state_dict().items())
    assert ModelRef(str(file)).conversion == "read from F32"


def test_converted_once_and_again_after_damage(file: Path, home: Path) -> None:
    folder = Path(ModelRef(str(file)).resolve())
    assert [path.name for path in home.iterdir() if not path.name.startswith(".")] == [folder.name]
    first = (folder / gguf.WEIGHTS).stat().st_mtime_ns
    gguf._converted.cache_clear()
    assert Path(ModelRef(str(file)).resolve()) == folder
    assert (folder / gguf.WEIGHTS).stat().st_mtime_ns == first

    whole = (folder / gguf.WEIGHTS).read_bytes()
    (folder / gguf.WEIGHTS).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    gguf._converted.cache_clear()
    assert Path(ModelRef(str(file)).resolve()) == folder
    assert (folder / gguf.WEIGHTS).read_bytes() == whole


@pytest.mark.parametrize("damage", [None, "", "{}", "[]"])
def test_an_incomplete_folder_is_converted_again(file: Path, damage: str | None) -> None:
    folder = Path(ModelRef(str(file)).resolve())
    if damage is None:
        (folder / gguf.WEIGHTS).unlink()
    else:
        (folder / gguf.FACTS).write_text(damage)
    gguf._converted.cache_clear()
    assert load_base(ModelRef(str(file)).resolve()).dtype is torch.bfloat16
    assert gguf.conversion(folder) == "dequantised from Q4_1"


def test_a_killed_conversion_leaves_no_model(file: Path, home: Path) -> None:
    code = "import sys; from dlm_trl.models.registry import ModelRef; print(ModelRef(sys.argv[1]).resolve())"
    command = [sys.executable, "-c", code, str(file)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(home.glob(".*.part/*")):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    late = [folder for folder in home.iterdir() if not folder.name.startswith(".")]  # it was over before the signal
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate() for process in both]
    folders = {output.splitlines()[-1] for output, _ in outputs}
    assert len(folders) == 1
    assert sum("converting" in errors for _, errors in outputs) == (0 if late else 1)
    assert not list(home.glob(".*.part"))
    assert load_base(folders.pop()).dtype is torch.bfloat16


def test_a_conversion_prints_nothing_to_stdout(file: Path) -> None:
    code = "import sys, pathlib; from dlm_trl.models.gguf import converted; converted(pathlib.Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "converting random.gguf" in done.stderr


def test_an_adapters_record_resolves_to_the_same_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    recorded = ModelRef(f"./{file.name}").record
    assert recorded == str(file)
    assert ModelRef.from_record(recorded).resolve() == ModelRef(str(file)).resolve()
    assert ModelRef.from_record(recorded).hub_id is None
    assert ModelRef(str(file)).conversion == "dequantised from Q4_1"


def test_a_file_with_another_hash_is_refused(file: Path, home: Path) -> None:
    with pytest.raises(DlmError, match="damaged"):
        gguf.converted(file, "0" * 64)
    assert not home.exists()


@pytest.mark.parametrize(
    ("architecture", "fields", "message"),
    [
        ("clip", {}, "architecture 'clip'"),
        ("t5", {}, "'t5' is not a causal language model"),
        ("llama", {"split.count": 3}, "one part of several"),
    ],
)
def test_untrainable_files_are_refused(
    tmp_path: Path, home: Path, architecture: str, fields: dict[str, int], message: str
) -> None:
    file = tmp_path / "other.gguf"
    writer = GGUFWriter(file, architecture)
    for name, value in fields.items():
        writer.add_uint16(name, value)
    writer.add_tensor("token_embd.weight", torch.zeros(4, 32).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(DlmError, match=message) as caught:
        ModelRef(str(file)).resolve()
    assert "\n" not in str(caught.value)
    assert not [path for path in home.iterdir() if path.is_dir()]


@pytest.mark.parametrize("size", [0, 3, 100, 20_000])
def test_a_damaged_file_is_refused(file: Path, home: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(DlmError, match="Not a complete GGUF file") as caught:
        ModelRef(str(file)).resolve()
    assert "\n" not in str(caught.value)
    assert not [path for path in home.iterdir() if path.is_dir()]


def test_weights_that_are_not_numbers_are_refused(tmp_path: Path, random_base: Path, home: Path) -> None:
    """As when its parts were joined in the wrong order."""
    file = write_gguf(tmp_path / "plain.gguf", random_base, GGMLQuantizationType.F32)
    file.write_bytes(file.read_bytes()[:-400] + b"\xff" * 400)
    with pytest.raises(DlmError, match="1 of its tensors have values that aren't numbers") as caught:
        ModelRef(str(file)).resolve()
    assert "\n" not in str(caught.value)
    assert not [path for path in home.iterdir() if path.is_dir()]


def test_a_missing_file_is_a_one_line_error(tmp_path: Path, home: Path) -> None:
    with pytest.raises(DlmError, match="Can't read the GGUF file: No such file"):
        ModelRef(str(tmp_path / "nothing.gguf")).resolve()


def test_an_unwritable_store_is_a_one_line_error(file: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = file.parent / "blocked"
    blocked.write_text("")
    monkeypatch.setenv("DLM_HOME", str(blocked))
    with pytest.raises(DlmError, match="Set DLM_HOME"):
        ModelRef(str(file)).resolve()


def test_the_facts_record_the_conversion(file: Path) -> None:
    facts = json.loads((Path(ModelRef(str(file)).resolve()) / gguf.FACTS).read_text())
    assert facts["file"] == "random.gguf"
    assert facts["type"] == "Q4_1"
    assert os.path.getsize(file) and len(facts["sha256"]) == len(facts["weights"]) == 64
