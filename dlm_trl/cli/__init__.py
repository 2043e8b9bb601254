"""The command line: `dlm-trl VERB …`, one thin function for each verb. `main` has the program and the short verbs;
the other modules have the others. May import every room.
"""
