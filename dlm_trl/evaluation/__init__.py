"""Numbers from before and after a run: what was learnt, and what it cost.

`recall` asks the questions of a document and compares the answers (exactly, and loosely); `perplexity` measures how
well a model still reads the fixed text `general.txt` that no run trains on; `report` writes what a run measured as
`report.json`, `report.md` and `report.png`. Nothing here trains. May import `rows`, `models` and `online`.
"""
