"""How many sentences of a document a small teacher covers with a right question, by hand labels.

    python benchmarks/sentences.py                          # recipes/notes.dlm and the documents in benchmarks/data
    python benchmarks/sentences.py --base_model smollm2-135m --show

`benchmarks/data/questions.jsonl` says of 311 questions whether a person found them right: understandable without the
text, and answered by the sentence. A sentence also counts as covered if the document itself, or its held-out part, has
the question. Questions without a label are listed. The rules were improved after looking at each of these documents, so
a new document comes out worse: see RESULTS.md.
"""

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path

from dlm_trl.asking.facts import facts
from dlm_trl.notes import read
from dlm_trl.synth.run import synthesize
from dlm_trl.synth.settings import SynthSettings

HERE = Path(__file__).parent
DOCUMENTS = (HERE.parent / "recipes/notes.dlm", *sorted((HERE / "data").glob("*.dlm")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base_model", default="smollm2-135m")
    parser.add_argument("--show", action="store_true", help="print each accepted question")
    options = parser.parse_args()
    labels = {}
    for line in (HERE / "data/questions.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        labels[row["sentence"], row["question"]] = row["right"]
    print("| document | sentences | covered | accepted | wrong | without a label | seconds |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    unlabelled = []
    for source in DOCUMENTS:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["DLM_HOME"] = os.environ.get("DLM_HOME", folder)
            path = Path(shutil.copy(source, folder))
            sentences = [f.sentence for s in read(path).sections if s.kind == "prose" for f in facts(s.content)]
            done = synthesize(path, SynthSettings(teacher=f"hf:{options.base_model}", ask="sentences", fresh=True))
        known = sum(loss.stage in ("duplicate", "leak") for loss in done.losses)
        verdicts = [labels.get((item.facts[0], item.pair.question)) for item in done.staged]
        right, wrong, unknown = (verdicts.count(verdict) for verdict in (True, False, None))
        share = (right + known) / len(sentences)
        print(
            f"| {source.name} | {len(sentences)} | {right + known} ({share:.0%}), {known} by its own pairs "
            f"| {len(verdicts)} | {wrong} | {unknown} | {done.seconds:.0f} |",
            flush=True,
        )
        for item, verdict in zip(done.staged, verdicts, strict=True):
            if options.show or verdict is None:
                lead = item.scores.lead if item.scores else None
                unlabelled.append(f"{verdict}: {item.pair.question} – {item.pair.answer} (lead {lead:.2f})")
    print("\n".join(unlabelled))


if __name__ == "__main__":
    main()
