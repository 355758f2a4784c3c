"""Make a small random Llama with a tokenizer and a chat template, for tests of the vLLM engine.

It answers noise, at the speed of a front end rather than of a model: what it proves is
everything around the weights. It knows no token that ends a reply: each has the length that was
asked for, and no test meets one that ended by chance. Needs torch and transformers (``make vllm``
installs them).

    python tools/make_tiny_model.py --out FOLDER [--seed 7]
"""

from __future__ import annotations

import argparse
from pathlib import Path

TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
CORPUS = [
    "hello, how are you today? i am well, thank you for asking.",
    "i bake bread, walk the dog, read old books and listen to the rain.",
    "tell me about your day; what made you smile, and what was hard?",
]


def make(out: Path, *, seed: int = 7, hidden: int = 64, layers: int = 2) -> Path:
    """Write a loadable Hugging Face folder with about 0.2 million random weights."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=512,
            special_tokens=SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|pad|>")
    fast.chat_template = TEMPLATE
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=512,
            hidden_size=hidden,
            intermediate_size=hidden * 2,
            num_hidden_layers=layers,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=16384,
            eos_token_id=None,
            pad_token_id=fast.pad_token_id,
            bos_token_id=None,
            tie_word_embeddings=True,
        )
    )
    out.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(out)
    fast.save_pretrained(out)
    return out


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    print(make(args.out, seed=args.seed))


if __name__ == "__main__":
    main()
