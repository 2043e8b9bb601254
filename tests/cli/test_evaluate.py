"""`dlm-trl evaluate` on the command line."""

import json
from pathlib import Path

import pytest
import torch
import typer
from transformers import GPT2Config, GPT2LMHeadModel
from typer.testing import CliRunner, Result

from dlm_trl import tiny
from dlm_trl.cli.evaluate import evaluate
from dlm_trl.notes import DlmError, store
from tests.tasks.tokenizers import gpt2_style

NOTES = Path(__file__).parents[2] / "recipes" / "notes.dlm"

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(evaluate)


def run(*words: str) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_prints_a_table() -> None:
    done = run("tiny", "--questions", 5, "--ask", "5:upper", "--ask", "6-9:digits")
    assert done.exit_code == 0, done.output
    for words in ("tiny, held-out words", "5:upper", "6-9:digits", "5:upper, cloze", "0.200", "Forward passes"):
        assert words in done.stdout
    assert "Perplexity of the general text: " in done.stdout


def test_prints_json(tmp_path: Path) -> None:
    words = ("tiny", "--questions", 5, "--ask", "4:VWXYZ", "--glosses", tiny.path() / "words.json", "--json")
    done = run(*words, "--split", "train", "--seed", 2)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["model"], found["split"], found["seed"]) == ("tiny", "train", 2)
    assert set(found["mcsb"]) == {"4:VWXYZ", "glosses"}
    assert set(found["mcsb"]["glosses"]["labels"]) <= set("VWXY")
    assert found["mcsb"]["glosses"]["passes"] == 20
    assert found["cloze"]["questions"] == found["mcsb"]["4:VWXYZ"]["questions"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("tiny", "--ask", "five"), "doesn't have the form CHOICES:LABELS"),
        (("tiny", "--ask", "5:ABC"), "don't fit the labels ABC"),
        (("tiny", "--ask", "5:upper", "--held-out", "0.001"), "too few for 5 options"),
        (("tiny", "--glosses", NOTES), "can't be read as JSON"),
        (("tiny", "--questions", "0"), "greater than or equal to 1"),
    ],
)
def test_misuse_is_exit_2(words: tuple[str, ...], message: str) -> None:
    done = run(*words)
    assert done.exit_code == 2
    assert message in " ".join(done.output.replace("│", " ").split())


def test_missing_models_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLM_HOME", str(tmp_path))
    assert isinstance(run("no-such-base").exception, DlmError)
    error = run(NOTES).exception
    assert isinstance(error, DlmError)
    assert "dlm-trl train" in str(error)


def test_a_document_with_named_adapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLM_HOME", str(tmp_path))
    notes, identity = tmp_path / "notes.dlm", "01JTRX0000000000000000000A"
    adapters = "training:\n  adapters:\n    crust: {}\n    crumb: {}\n"
    notes.write_text(f"---\ndlm_id: {identity}\nbase_model: tiny\n{adapters}---\nFlour.\n")
    assert "No adapter" in str(run(notes).exception)
    trained = store.next_version(identity, "crust")
    trained.mkdir(parents=True)
    store.set_current_adapter(identity, trained, "crust")
    error = str(run(notes).exception)
    assert f"in place of the document: crust ({trained.resolve()})." in error and "crumb" not in error


def test_a_base_without_the_words(random_base: Path) -> None:
    done = run(random_base)
    assert done.exit_code == 2
    assert "too few for" in " ".join(done.output.split())


def test_a_base_that_cannot_describe(tmp_path: Path) -> None:
    tokenizer = gpt2_style()
    torch.manual_seed(0)
    babbler = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=1))
    babbler.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    error = run(tmp_path, "--split", "train", "--questions", 1, "--ask", "3:upper").exception
    assert isinstance(error, DlmError)
    assert "(3:upper)" in str(error)
    assert "another base" in str(error)
