"""Tasks for the online loop: draw items, prompt the base, turn what it writes into training rows, score predictions.

`protocol` says what a task is, `load` finds one by name, and `mcsb`, `arithmetic` and `prose_qa` are the built-in ones.
A task knows no model and no trainer. May import `notes`.
"""
