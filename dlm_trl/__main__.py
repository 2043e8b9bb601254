"""`python -m dlm_trl VERB …`, the same as `dlm-trl VERB …`; accelerate can launch it: `accelerate launch -m dlm_trl
…`.
"""

from dlm_trl.cli.main import main

if __name__ == "__main__":
    main()
