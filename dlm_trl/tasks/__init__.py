"""Tasks for online synthesis: draw items, prompt the base, turn its text into training rows, score predictions.

`protocol` defines a task, `load` creates one by name, and `mcsb`, `arithmetic`, `prose_qa` and `span_qa` are built
in. Tasks don't depend on a model or a trainer.
"""
