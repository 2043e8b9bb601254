"""Ask a model one question, with plain transformers: python scripts/ask.py runs/notes-awq "What is hooch?"

An AWQ model needs gptqmodel (extra `quant`) to load.
"""

import logging
import sys
from pathlib import Path

logging.disable(logging.WARNING)  # libraries warn about each other's versions

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from dlm_trl.models.precision import inference_dtype

if __name__ == "__main__":
    if len(sys.argv) != 3 or not Path(sys.argv[1], "config.json").is_file():
        sys.exit(f"{__doc__}\nGive the folder of a model and a question.")
    folder, question = sys.argv[1:]
    dtype = inference_dtype(AutoConfig.from_pretrained(folder))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype), AutoTokenizer.from_pretrained(folder)
    if not tokenizer.chat_template:
        sys.exit(f"{folder}: the tokenizer has no chat template.")
    chat = [{"role": "user", "content": question}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")
    out = model.generate(**ids, max_new_tokens=128)
    print(tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))
