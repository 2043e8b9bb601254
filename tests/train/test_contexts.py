"""Each pair that is trained has a context: the tokens of its question after the notes that answer it."""

from pathlib import Path

from dlm_trl.train.config import read_configuration
from dlm_trl.train.contexts import NOTES
from dlm_trl.train.prepare import prepare

DEMO = Path(__file__).parents[2] / "recipes" / "notes.dlm"


def test_every_trained_pair_has_the_notes_that_answer_it(tmp_path: Path) -> None:
    words = ["--notes", str(DEMO), "--base_model", "tiny", "--output_dir", str(tmp_path / "out")]
    assert prepare(read_configuration(words)).contexts == {}
    run = prepare(read_configuration([*words, "--objective", "kl", "--prose", "false"]))
    rows = {tuple(row["input_ids"]): row["labels"] for row in run.tokens.train}
    assert run.contexts.keys() == rows.keys() and len(rows) == 50

    pairs = list(zip(run.rows.pairs["prompt"], run.rows.pairs["completion"], strict=True))
    told = 0
    for (prompt, answer), context in zip(pairs, run.contexts.values(), strict=True):
        text = run.tokenizer.decode(context)
        asked, said = prompt[-1]["content"], answer[-1]["content"].strip(".").lower()
        assert asked in text and len(context) < NOTES + 100
        told += said.split()[-1] in text.lower()
    assert told >= 0.9 * len(pairs)
