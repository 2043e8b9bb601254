"""Dataset rows from documents: the `datasets` builder, its registration, and the train/validation split.

`convert` turns a parsed document into rows, `builder` and `register` make `load_dataset("dlm_trl/dlm", …)` work, `load`
does the same without private APIs of `datasets`, and `split` keeps related rows on the same side. Import from the
modules; none of them loads torch.
"""
