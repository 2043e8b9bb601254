"""Rows on disk equal those of an online run, survive a kill, don't depend on the number of processes, and train."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest

from dlm_trl.models.load import load_base, load_tokenizer
from dlm_trl.notes import DlmError
from dlm_trl.online import rows_on_disk
from dlm_trl.online.authors import FrozenBase
from dlm_trl.online.callback import OnlineSynthesisCallback, placeholder
from dlm_trl.online.rows_folder import claim, progress, read_settings
from dlm_trl.tasks.mcsb import Mcsb
from tests.online.test_callback import arguments, kept, logged, trainer
from tests.tasks.letters import Letters

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "synthesize_task.py"
LETTERS = f"{ROOT}/tests/tasks/letters.py:Letters"
SAID = f"{ROOT}/tests/tasks/letters.py:SaidLetters"

Recipe = Callable[..., Path]


@pytest.fixture
def recipe(tmp_path: Path, random_base: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """recipe("--n", 12, …) runs recipes/synthesize_task.py in this process and gives its folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    main = runpy.run_path(str(RECIPE))["main"]

    def run(*settings: Any, out: str = "rows") -> Path:
        common = ["--task", LETTERS, "--base_model", str(random_base), "--out", str(tmp_path / out)]
        main([*common, *map(str, settings)])
        return tmp_path / out

    return run


def rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of all files, in order."""
    files = sorted((folder / "data").glob("rows-*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text("utf-8").splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_the_rows_equal_those_of_an_online_run_and_train_like_it(recipe: Recipe, tmp_path: Path) -> None:
    tokenizer = load_tokenizer("tiny")
    settings = {"max_steps": 2, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 2}
    args = arguments(tmp_path / "online", **settings)
    online = trainer(load_base("tiny", "float32"), tokenizer, args, placeholder(args))
    OnlineSynthesisCallback(Mcsb(tokenizer, choices=3), seed=5).attach(online)
    online.train()

    options = ("--task", "mcsb", "--stages", '[{"choices": 3}]', "--base_model", "tiny", "--seed", 5)
    folder = recipe(*options, "--n", 12, "--rows_per_step", 6)
    seen = kept(tmp_path / "online")
    written = sorted(seen, key=lambda row: (row["step"], row["index"]))
    assert rows(folder) == [{k: v for k, v in row.items() if k != "rejected"} for row in written]
    assert len(seen) > 9

    dataset = rows_on_disk.load_rows(folder, tokenizer)
    assert dataset.to_list() == [{name: row[name] for name in ("input_ids", "labels")} for row in seen]
    args = arguments(tmp_path / "stock", **settings, train_sampling_strategy="sequential")
    stock = trainer(load_base("tiny", "float32"), tokenizer, args, dataset)
    stock.train()
    assert logged(stock) == logged(online)


def test_the_folder_is_a_dataset_with_the_same_columns_whatever_the_task(recipe: Recipe) -> None:
    text = recipe("--n", 10, "--rows_per_step", 4, "--stages", '[{"rejecting": "half"}]', out="text")
    messages = recipe("--n", 3, "--task", SAID, out="said")
    one, other = (datasets.load_dataset(str(folder), split="train") for folder in (text, messages))
    assert one.to_list() == rows(text)
    assert 4 < max(row["step"] * 4 + row["index"] for row in rows(text)) < 10
    assert other[0]["prompt"][0]["role"] == "user"
    assert one.column_names == other.column_names
    assert [one.features[name] == other.features[name] for name in one.column_names].count(False) == 1  # the prompt
    plain = datasets.load_dataset("json", data_files=f"{text}/data/*.jsonl", split="train")
    assert plain.to_list() == rows(text)

    card = (text / "README.md").read_text()
    assert "size_categories" in card and "license: choose one" in card
    (line,) = [line for line in card.splitlines() if line.startswith("| rejected drafts")]
    steps = [json.loads(line) for line in (text / "progress-00000-of-00001.jsonl").read_text().splitlines()]
    rejected = sum(step["rejected"].get("odd", 0) for step in steps)
    assert rejected > 0 and line == f"| rejected drafts | odd: {rejected} |"
    assert rejected >= sum(row["attempt"] for row in rows(text)) > 0
    assert [(step["rows"], step["tokens"]) for step in steps] == [
        (len(of), sum(len(row["input_ids"]) for row in of))
        for of in ([row for row in rows(text) if row["step"] == step] for step in range(3))
    ]


def test_two_processes_write_the_same_rows_as_one_and_a_killed_run_resumes(
    recipe: Recipe, random_base: Path, tmp_path: Path
) -> None:
    settings = ["--stages", '[{"rejecting": "few"}, {"choices": false}]', "--rows_per_step", "4", "--n"]
    common = ["--task", LETTERS, "--base_model", str(random_base), *settings]
    few, both, killed = tmp_path / "few", tmp_path / "both", tmp_path / "killed"
    (tmp_path / "runs.py").write_text(
        "import os, pathlib, runpy\n"
        f"pathlib.Path({str(tmp_path)!r}, 'pid-' + os.environ['RANK']).write_text(str(os.getpid()))\n"
        f"main = runpy.run_path({str(RECIPE)!r})['main']\n"
        f"main({[*common[:4], '--n', '3', '--out', str(few)]})\n"
        f"main({[*common, '30', '--out', str(both)]})\nmain({[*common, '322', '--out', str(killed)]})\n"
    )
    shape = ROOT / "accelerate_configs" / "cpu_2proc.yaml"
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(shape),
        str(tmp_path / "runs.py"),
    ]
    reached = [killed / f"progress-0000{shard}-of-00002.jsonl" for shard in range(2)]
    with (tmp_path / "out").open("w") as out:
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT) as launcher:
            while launcher.poll() is None and not all(f.exists() and b"\n" in f.read_bytes() for f in reached):
                time.sleep(0.01)
            assert launcher.poll() is None, (tmp_path / "out").read_text()[-3000:]
            for rank in range(2):
                os.kill(int((tmp_path / f"pid-{rank}").read_text()), signal.SIGKILL)

    # The first run finished. It has one step, and the second process had nothing to write.
    assert contents(few) == contents(recipe("--n", 3, out="few_alone"))

    # So did the second run. Of two stages of four steps, each process wrote one.
    alone = recipe(*settings, "30", out="alone")
    assert [len(file.read_bytes()) > 0 for file in sorted((both / "data").glob("rows-*.jsonl"))] == [True, True]
    assert rows(both) == rows(alone)
    assert (both / "README.md").read_bytes() == (alone / "README.md").read_bytes()
    assert (tmp_path / "out").read_text().count("rejected drafts") == 2
    assert {row["step"] for row in rows(both) if row["choices"]} == {0, 1, 2, 3}
    assert {row["step"] for row in rows(both) if not row["choices"]} == {4, 5, 6, 7}
    tokenizer = load_tokenizer(str(random_base))
    assert rows_on_disk.load_rows(both, tokenizer).to_list() == rows_on_disk.load_rows(alone, tokenizer).to_list()

    # The third one was killed, also between rows and progress, and in the middle of a line. One process resumes.
    assert 2 <= sum(len(file.read_bytes().splitlines()) for file in reached) < 81
    with pytest.raises(DlmError, match=r"Only \d+ of 81 steps"):
        rows_on_disk.load_rows(killed, tokenizer)
    for file, torn in ((killed / "data" / "rows-00001-of-00002.jsonl", b'{"step": 9}\n{"st'), (reached[0], b'{"st')):
        with file.open("ab") as stream:
            stream.write(torn)
    recipe(*settings, "322", out="killed")
    whole = recipe(*settings, "322", out="whole")
    assert b"".join(file.read_bytes() for file in sorted(killed.glob("data/*.jsonl"))) == b"".join(
        file.read_bytes() for file in whole.glob("data/*.jsonl")
    )
    assert (killed / "README.md").read_bytes() == (whole / "README.md").read_bytes()
    before = contents(killed)
    recipe(*settings, "322", out="killed")  # nothing is left to do
    assert contents(killed) == before


def test_files_may_be_without_choices_and_without_rows(recipe: Recipe, model, tokenizer, tmp_path: Path) -> None:
    stages = [{"rejecting": "all"}, {"choices": False}, {"choices": True}]
    alone = recipe("--stages", json.dumps(stages), "--n", 9, "--rows_per_step", 3)
    settings = replace(read_settings(alone), shards=3)
    claim(tmp_path / "three", settings)
    for shard in range(3):
        tasks = [Letters(**stage) for stage in stages]
        rows_on_disk.write_shard(tmp_path / "three", settings, shard, tasks, FrozenBase(model, tokenizer), tokenizer)
    assert rows(tmp_path / "three") == rows(alone)
    trained = rows_on_disk.load_rows(tmp_path / "three", tokenizer)
    assert trained.to_list() == rows_on_disk.load_rows(alone, tokenizer).to_list()
    assert len(trained) == 6


def test_a_folder_with_other_settings_is_not_changed(recipe: Recipe, tmp_path: Path) -> None:
    folder = recipe("--n", 8)
    before = contents(folder)
    for changed, message in ((("--seed", 1), "seed is 42 there and 1 now"), (("--n", 9), "n is 8 there and 9 now")):
        with pytest.raises(DlmError, match=message):
            recipe("--n", 8, *changed)
    assert contents(folder) == before
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.md").write_text("mine")
    with pytest.raises(DlmError, match="contains other files"):
        recipe("--n", 8, out="taken")
    assert sorted(path.name for path in (tmp_path / "taken").iterdir()) == ["thesis.md"]


def test_notes_with_the_same_name_are_distinguished(recipe: Recipe, tmp_path: Path) -> None:
    notes = [tmp_path / folder / "notes.dlm" for folder in "ab"]
    for letter, file in zip("AB", notes, strict=True):
        file.parent.mkdir()
        file.write_text(f"---\ndlm_id: 01JTRX0000000000000000000{letter}\nbase_model: tiny\n---\nFlour.\n")
    recipe("--n", 4, "--notes", *notes)
    notes[0].write_text(notes[0].read_text() + "Water.\n")
    with pytest.raises(DlmError, match="files is"):
        recipe("--n", 4, "--notes", *notes)


def test_rows_that_are_too_long_for_the_training_are_refused(
    recipe: Recipe, tokenizer, random_base: Path, tmp_path: Path
) -> None:
    folder = recipe("--n", 12)
    lengths = sorted(len(row["input_ids"]) for row in rows(folder))
    assert len(rows_on_disk.load_rows(folder, tokenizer, lengths[-1])) == 12
    longer = sum(length > lengths[0] for length in lengths)
    assert longer
    message = f"{longer} of 12 rows are longer than max_length, {lengths[0]} tokens. Train with .* {lengths[-1]}"
    with pytest.raises(DlmError, match=message):
        rows_on_disk.load_rows(folder, tokenizer, lengths[0])
    train = runpy.run_path(str(ROOT / "recipes" / "sft.py"))["main"]
    words = ["--task_rows", folder, "--base_model", random_base, "--output_dir", tmp_path / "run", "--max_steps", 1]
    with pytest.raises(DlmError, match=message):
        train([str(word) for word in [*words, "--max_length", lengths[0]]])


def test_folders_that_cannot_be_trained_on_are_refused(recipe: Recipe, tokenizer, tmp_path: Path) -> None:
    folder = recipe("--n", 4)
    with pytest.raises(DlmError, match=r"tokenised for .*random_base.*the base to train has another vocabulary"):
        rows_on_disk.load_rows(folder, load_tokenizer("tiny"))
    with pytest.raises(DlmError, match="isn't a folder of task rows"):
        rows_on_disk.load_rows(tmp_path, tokenizer)
    nothing = recipe("--n", 4, "--stages", '[{"rejecting": "all"}]', out="nothing")
    with pytest.raises(DlmError, match=r"all were rejected \(odd: 16\)"):
        rows_on_disk.load_rows(nothing, tokenizer)
    assert read_settings(nothing).stages == [{"rejecting": "all"}]


def test_a_teacher_without_a_reply_ends_the_run_and_nothing_is_lost(
    recipe: Recipe, model, tokenizer, tmp_path: Path
) -> None:
    folder = recipe("--n", 12, "--rows_per_step", 4)

    class Fading(FrozenBase):
        """Answers the first six prompts."""

        left = 6

        def write(self, task: Any, prompts: Sequence[Any], *args: Any) -> list[str | None]:
            texts = super().write(task, prompts, *args)
            answered, self.left = texts[: self.left], max(0, self.left - len(texts))
            return [*answered, *[None] * (len(texts) - len(answered))]

    settings = replace(read_settings(folder), teacher="vllm-server:http://gone")
    again = tmp_path / "again"
    claim(again, settings)
    with pytest.raises(DlmError, match="no reply for 2 rows of step 1, asked 4 times each"):
        rows_on_disk.write_shard(again, settings, 0, [Letters()], Fading(model, tokenizer), tokenizer)
    assert progress(again, settings).steps == 1
    rows_on_disk.write_shard(again, settings, 0, [Letters()], FrozenBase(model, tokenizer), tokenizer)
    assert rows(again) == rows(folder)


def test_bad_input_is_one_line_before_weights_are_loaded(recipe: Recipe, random_base: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(random_base, bare, ignore=shutil.ignore_patterns("*.safetensors", "*.jinja"))
    own = tmp_path / "own.py"
    own.write_text(
        "from tests.tasks.letters import Letters\n"
        "class Broken(Letters):\n    def prompts(self, items):\n        return [item.word for item in items]\n"
    )
    for settings, words in (
        (("--n", 0), "n is 0"),
        (("--n", "many"), "--n: invalid int"),
        (("--rows", 3), "not used"),
        (("--stages", "[{]"), "stages isn't valid JSON"),
        (("--stages", "[3]"), "isn't a list of mappings"),
        (("--stages", "[{}, {}, {}]"), "3 stages can't be spread over 1 steps"),
        (("--stages", '[{"loss": "labels"}]'), "loss='labels'"),
        (("--stages", '[{"letters": 3}]'), "can't be created"),
        (("--task", "mcbs"), "Unknown task 'mcbs'"),
        (("--task", f"{own}:Broken"), "fails: AttributeError"),
        (("--task", f"{tmp_path}/no.py:Broken"), "No such file"),
        (("--task", "prose_qa"), "needs notes"),
        (("--task", SAID), "no chat template"),
        (("--teacher", "self"), "adapter of a document"),
        (("--teacher", "gpt"), "Unknown teacher 'gpt'"),
        (("--base_model", "tinny"), "Did you mean 'tiny'"),
        (("--notes", "no.dlm"), "no.dlm"),
        (("--out", f"{own}/below"), "cannot be written"),
        ((), "No weights in this folder"),  # the error if everything else is valid
    ):
        with pytest.raises(DlmError, match=words) as caught:
            recipe("--n", 8, "--base_model", bare, *settings)
        assert "\n" not in str(caught.value)
