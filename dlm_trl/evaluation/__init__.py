"""Measure models before, during and after training: what they learned, and what they forgot.

- `mcsb`: multiple-choice questions, asked with every rotation of their options; `cloze`: a baseline without labels
- `recall`: a document's questions, with the answers compared; `answers`: exact match and token F1
- `choices`: the same as multiple choice; `inventions`: questions that the document doesn't answer
- `open_book`: the same questions with the prose in the prompt; `open_book_share`: how much of that is reached
- `notes_score`: all numbers about a document at once; `questions_file`: questions that no run trains on
- `perplexity`: on the fixed text `general.txt`, which no run trains on
- `suite`: all numbers of a model at once; `during`: the same during training; `spec`: which questions a run uses
- `report`: writes report.json, report.md, report.html, report.png; `content`, `numbers`, `picture`, `page`: its parts
- `progress`: a progress bar
- `advice`: what the numbers suggest, and which facts the model still misses
- `metrics`: modules for the `evaluate` library

Nothing here trains. May import `notes`, `rows`, `models` and `tasks`.
"""
