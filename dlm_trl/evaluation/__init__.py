"""Measure models before, during and after training: what they learned, and what they forgot.

- `mcsb`: multiple-choice questions, asked with every rotation of their options; `cloze`: a baseline without labels
- `recall`: a document's questions, with the answers compared; `answers`: exact match and token F1
- `open_book`: the same questions with the document's prose in the prompt
- `perplexity`: on the fixed text `general.txt`, which no run trains on
- `suite`: all numbers of a model at once; `during`: the same during training; `spec`: which questions a run uses
- `report`: writes report.json, report.md and report.png; `progress`: a progress bar
- `metrics`: modules for the `evaluate` library

Nothing here trains. May import `notes`, `rows`, `models` and `tasks`.
"""
