"""Sections become rows: the `datasets` builder, its registration, the split, tokenising with labels.

`convert` turns a parsed document into rows (a pure function), `builder` and `register` make
`load_dataset("dlm_trl/dlm", …)` work, `load` offers the same without touching anything private, `split` keeps what
belongs together on one side, `tokenize` makes `input_ids` and `labels`. Import what you need from the module that has
it; nothing here loads torch.
"""
