"""Numbers from before, during and after a run: what was learnt, and what it cost.

`mcsb` asks multiple-choice questions in every order of their options, `cloze` is the baseline without labels, `recall`
asks the questions of a document and compares the answers (`answers` has exact match and token F1), `open_book` asks
them with the document's prose in the prompt, `perplexity` measures how well a model still reads the fixed text
`general.txt` that no run trains on. `suite` has these of a model at once, `during` while it trains, `metrics` as
modules for the library `evaluate`; `progress` shows that something is measured, and `report` writes what a run measured
as `report.json`, `report.md` and `report.png`.
Nothing here trains. May import `rows`, `models` and `online`.
"""
