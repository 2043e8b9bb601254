"""A configuration becomes a trained adapter: what `recipes/sft.py` is made of, one module a step.

`arguments` are the settings with their help, `config` finds each one's value (command line, YAML, the document's
frontmatter, default) and says where it came from, `preflight` finds everything that would go wrong before any weight is
loaded, `data` makes tokenised rows and questions, `adapter` the PEFT configuration, `callbacks` what happens during the
run, `measure` the numbers before and after, `save` what stays. `distributed` makes several processes work on machines
without a GPU.
"""
