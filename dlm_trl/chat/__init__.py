"""Talk to a model right after training: `dlm-trl chat runs/notes`.

- `opening`: from a run folder, a merged or quantized model or a document to a loaded model and its notes
- `session`: the conversation: what the model reads, within its context, and how it answers
- `loop`: a person at a terminal, or lines from a pipe

Answers are generated as the recipe measures them. Nothing here trains or writes a file.
"""
