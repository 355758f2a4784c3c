"""Held-out bits per byte of the toy model as it ships: int8 weights, the engine's own code.

    python tools/eval_toy.py --data valid.csv [--model FOLDER]

Prints one JSON object. The counting rule is the one that `train_toy.py` describes: every
token of every turn and the token that closes it, over the UTF-8 bytes of the turns' text; the
persona's facts and the first speaker are given. Each held-out conversation counts from both
sides. Nothing of a held-out conversation, nor of its profiles, was in the training part.
Needs what the engine needs, and no torch.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from toy_data import USER, View, read_conversations, split, view

from runtime.enclave.engines.base import Message
from runtime.enclave.engines.embedded import TOY_FOLDER
from runtime.enclave.engines.toy.network import ToyMeta, ToyNetwork, ToyState
from runtime.enclave.engines.toy.text import ToyText


def bits(network: ToyNetwork, text: ToyText, sample: View) -> float:
    """Negative log2-likelihood of a view's dialogue, laid out as the engine lays out prompts."""
    (_, facts), *turns = sample.segments
    messages = [Message("system", facts)]
    given = len(text.prompt(messages))  # with the token that says who speaks first
    messages += [Message("user" if role == USER else "assistant", said) for role, said in turns]
    ids = [*text.prompt(messages)[:-1], text.end]
    logits = ToyState(network, len(ids)).extend(ids[:-1], every=True)
    scored = np.array(ids[given:])
    return float(-_log2_softmax(logits[given - 1 :])[np.arange(len(scored)), scored].sum())


def _log2_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    normal = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return np.asarray(normal / np.log(2))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="valid.csv of the data set")
    parser.add_argument("--model", type=Path, default=TOY_FOLDER, help="model folder")
    args = parser.parse_args()
    meta = ToyMeta.read(args.model)
    network, text = ToyNetwork(args.model, meta), ToyText(args.model, meta.role_tokens)
    held_out = split(read_conversations(args.data))["heldout"]
    samples = [view(conversation, persona) for conversation in held_out for persona in (0, 1)]
    total_bits = sum(bits(network, text, sample) for sample in samples)
    total_bytes = sum(sample.dialogue_bytes for sample in samples)
    report = {
        "model": meta.name,
        "conversations": len(held_out),
        "dialogue_bytes": total_bytes // 2,
        "bits_per_byte": round(total_bits / total_bytes, 4),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
