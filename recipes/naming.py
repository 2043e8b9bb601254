"""An example of your own task: which word does a description mean?

accelerate launch recipes/sft.py --task recipes/naming.py:Naming --base_model tiny --max_steps 50
"""

from dlm_trl.tasks.mcsb import contains_word, nouns
from dlm_trl.tasks.prompts import description_prefix, description_prompt
from dlm_trl.tasks.protocol import Example, Reject, accuracy


class Naming:
    name = "naming"
    prefix = description_prefix()  # every prompt begins with it, so its KV cache is computed once
    stop = ("\n",)
    max_new_tokens, temperature = 28, 0.8

    def draw(self, rng, n):  # the answers come first; rng is the only source of randomness
        return [rng.choice(nouns()) for _ in range(n)]

    def prompts(self, items):  # for the frozen base
        return [self.prefix + description_prompt(word) for word in items]

    def examples(self, items, generated):  # an Example or a Reject per item
        return [self.row(word, text.strip()) for word, text in zip(items, generated, strict=True)]

    def row(self, word, description):
        if not description:
            return Reject("empty")
        if contains_word(description, word):
            return Reject("contains the word")
        return Example(f"Description: {description}\nWord:", f" {word}", facts={"word": word})

    def metrics(self, examples, predictions):
        return accuracy(examples, predictions)
