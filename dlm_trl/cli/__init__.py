"""The command line: `dlm-trl VERB …`, one thin function for each verb. `main` has the program and the short verbs;
`synth`, `evaluate` and `export` have the others. May import every room.
"""
