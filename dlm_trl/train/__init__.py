"""From settings to a trained adapter: the parts that `recipes/sft.py` is made of.

`arguments` has the settings with their help, `config` finds the value of each one (command line, YAML, frontmatter,
default), `prepare` checks everything and returns a `Run` (`run`, `data`, `spec`, `checkpoints`), `task` attaches a
task, `adapter`, `callbacks`, `rehearsal` and `loss` act during training, `measure` takes the numbers before and after,
and `save` writes the result. `distributed` is about several processes. May import every room above it but `synth`.
"""
