"""Trains the toy model that ships with the `embedded` engine, and writes its folder.

    python tools/train_toy.py --data valid.csv --out runtime/enclave/engines/toy --bf16

Needs torch >= 2.9, onnx, tokenizers and numpy. A Llama-shaped decoder learns both sides of
each conversation, once with either user as the persona. Four things stretch the small data:
texts are split into other tokens each time they are seen (BPE dropout), facts change their
order, names change, and a moving average of the weights is what is kept. The checkpoint is
chosen on the dev part; the held-out part is scored once, at the end.

Held-out bits per byte = negative log2-likelihood of the dialogue over its bytes. Counted in
the numerator: every token of every turn, and the role or end token that closes each turn.
Given, not counted: the persona's facts, and who speaks first. Denominator: UTF-8 bytes of the
turns' text alone, without labels or line ends. Each conversation counts twice, once from
either side, and as it is in the data, placeholders included. Tokenization is the
deterministic one, so the figure is an upper bound.

A run repeats another closely, not bit by bit: BPE dropout draws its own randomness in the
tokenizer's threads, and `--minutes` makes the schedule depend on the machine.
"""

from __future__ import annotations

import argparse
import copy
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional as F
from toy_data import END, ROLE_TOKENS, Conversation, View, read_conversations, split, view
from toy_export import save_model
from toy_model import Shape, ToyModel
from toy_names import NAMES, fill_names

IGNORE = -100
WARM_UP = 60  # steps


def train_tokenizer(conversations: Sequence[Conversation], size: int) -> Tokenizer:
    """Byte-level BPE of `size` tokens on the training part: any text has an encoding."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    rng = random.Random(0)  # noqa: S311 - repeatable, not a secret
    named = [filled for c in conversations if (filled := fill_names(c, rng))]
    views = [view(c, persona) for c in named for persona in (0, 1)]
    texts = [" " + text for sample in views for _, text in sample.segments]
    texts += [" " + name for name in NAMES] * 20
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, sample: View) -> tuple[list[int], int]:
    """Token ids of a view, closed by the end token, and where the dialogue starts in them.

    Every text is encoded with a space before it, so that a first word shares its token with
    the same word in mid-sentence.
    """
    base = tokenizer.get_vocab_size()
    role_id = {token: base + i for i, token in enumerate(ROLE_TOKENS)}
    encoded = tokenizer.encode_batch([" " + text for _, text in sample.segments])
    ids: list[int] = []
    start = 0
    for i, ((role, _), text) in enumerate(zip(sample.segments, encoded, strict=True)):
        ids += [role_id[role], *text.ids]
        if i == 0:
            start = len(ids) + 1
    return [*ids, role_id[END]], start


def vary(conversation: Conversation, rng: random.Random) -> Conversation | None:
    """The same conversation with names filled in and facts reordered; None if unusable."""
    filled = fill_names(conversation, rng)
    if filled is None:
        return None
    first, second = (tuple(rng.sample(facts, len(facts))) for facts in filled.facts)
    return replace(filled, facts=(first, second))


def batches(
    tokenizer: Tokenizer,
    conversations: Sequence[Conversation],
    shape: Shape,
    tokens: int,
    seed: int,
) -> Iterator[Tensor]:
    """One pass over both views of every conversation in batches (rows, time), padded by -1.

    Sequences of similar length share a batch, so little is computed for padding.
    """
    rng = random.Random(seed)  # noqa: S311 - repeatable shuffling, not a secret
    samples = []
    for conversation in conversations:
        varied = vary(conversation, rng)
        if varied is None:
            continue
        samples += [encode(tokenizer, view(varied, persona))[0] for persona in (0, 1)]
    samples = [ids[: shape.context + 1] for ids in samples]
    samples.sort(key=lambda ids: len(ids) + rng.uniform(0, 40))
    groups: list[list[list[int]]] = [[]]
    for ids in samples:
        if groups[-1] and len(ids) * (len(groups[-1]) + 1) > tokens:
            groups.append([])
        groups[-1].append(ids)
    rng.shuffle(groups)
    for group in groups:
        longest = max(map(len, group))
        yield torch.tensor([ids + [-1] * (longest - len(ids)) for ids in group])


def loss_of(model: ToyModel, batch: Tensor, *, bf16: bool) -> Tensor:
    """Mean negative log-likelihood (nats per token) of a padded batch."""
    targets = batch[:, 1:].where(batch[:, 1:] >= 0, IGNORE)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = model(batch[:, :-1].clamp(min=0))
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORE)


@torch.inference_mode()
def bits_per_byte(
    model: ToyModel, tokenizer: Tokenizer, conversations: Sequence[Conversation]
) -> float:
    """Bits per byte as the module's docstring counts them."""
    model.eval()
    bits, size = 0.0, 0
    for conversation in conversations:
        for persona in (0, 1):
            sample = view(conversation, persona)
            ids, start = encode(tokenizer, sample)
            if len(ids) > model.shape.context:
                raise ValueError(f"a conversation of {len(ids)} tokens exceeds the context")
            row = torch.tensor([ids])
            targets = row[:, 1:].clone()
            targets[:, : start - 1] = IGNORE
            nats = F.cross_entropy(
                model(row[:, :-1])[0], targets[0], ignore_index=IGNORE, reduction="sum"
            )
            bits += nats.item() / math.log(2)
            size += sample.dialogue_bytes
    return bits / size


class Average:
    """Exponential moving average of a model's weights."""

    def __init__(self, model: ToyModel, decay: float) -> None:
        self.model = copy.deepcopy(model).eval()
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: ToyModel) -> None:
        """Moves towards `model`; early updates weigh more, so that the start is forgotten."""
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 10))
        for mine, theirs in zip(self.model.parameters(), model.parameters(), strict=True):
            mine.lerp_(theirs, 1 - decay)


def optimizers(model: ToyModel, rate: float, decay: float) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for the embedding and the norms."""
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    rest = [p for p in model.parameters() if not any(p is m for m in matrices)]
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.98), weight_decay=0.01),
    ]


class Run:
    """A training run: the model, its moving average, and the schedule that binds them.

    The learning rate warms up, then falls along half a cosine. `progress` counts steps or, if
    that is ahead, the time that was granted.
    """

    def __init__(self, args: argparse.Namespace, shape: Shape, steps: int) -> None:
        self.args = args
        self.steps = steps
        self.model = ToyModel(shape)
        self.average = Average(self.model, args.average)
        self.optims = optimizers(self.model, args.rate, args.decay)
        self.rates = [group["lr"] for optim in self.optims for group in optim.param_groups]
        self.step = 0
        self.began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    @property
    def progress(self) -> float:
        """From 0 to 1."""
        granted: float = 60 * self.args.minutes
        return min(1.0, max(self.step / self.steps, self.seconds / granted))

    def learn(self, batch: Tensor) -> float:
        """One step; returns the batch's mean loss in nats per token."""
        self.step += 1
        warm = min(1.0, self.step / WARM_UP)
        factor = warm * (0.02 + 0.98 * (1 + math.cos(math.pi * self.progress)) / 2)
        groups = [group for optim in self.optims for group in optim.param_groups]
        for group, rate in zip(groups, self.rates, strict=True):
            group["lr"] = rate * factor
        loss = loss_of(self.model, batch, bf16=self.args.bf16)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optim in self.optims:
            optim.step()
            optim.zero_grad(set_to_none=True)
        self.average.update(self.model)
        return float(loss.item())

    def learn_all(self, data: Iterator[Tensor]) -> float:
        """One pass, or what time allows of it; returns the mean loss."""
        self.model.train()
        losses = []
        for batch in data:
            losses.append(self.learn(batch))
            if self.step % 20 == 0:
                print(f"step {self.step} loss {losses[-1]:.3f} {self.seconds:.0f} s", flush=True)
            if self.progress >= 1:
                break
        return sum(losses) / len(losses)


def train(args: argparse.Namespace) -> None:
    """Trains, keeps the best averaged checkpoint on the dev part, exports it."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    parts = split(read_conversations(args.data))
    plain = train_tokenizer(parts["train"], args.vocab)
    noisy = Tokenizer.from_str(plain.to_str())
    noisy.model.dropout = args.bpe_dropout
    shape = Shape(vocab=plain.get_vocab_size() + len(ROLE_TOKENS), dropout=args.dropout)
    steps = args.passes * sum(1 for _ in batches(noisy, parts["train"], shape, args.tokens, 0))
    run = Run(args, shape, steps)
    print({name: len(part) for name, part in parts.items()}, shape)
    parameters = sum(p.numel() for p in run.model.parameters())
    print(f"{parameters} parameters, {steps} steps", flush=True)
    best, best_state = math.inf, run.average.model.state_dict()
    for number in range(args.passes):
        data = batches(noisy, parts["train"], shape, args.tokens, args.seed + number)
        loss = run.learn_all(data)
        score = bits_per_byte(run.average.model, plain, parts["dev"])
        print(
            f"pass {number + 1}: train {loss:.3f} nats/token, dev {score:.4f} bits/byte", flush=True
        )
        if score < best:
            best, best_state = score, copy.deepcopy(run.average.model.state_dict())
        elif score > best * 1.01:
            print("dev no longer improves; stopping")
            break
        if run.progress >= 1:
            break
    chosen = run.average.model
    chosen.load_state_dict(best_state)
    if args.checkpoint:
        torch.save(best_state, args.checkpoint)
    score = bits_per_byte(chosen, plain, parts["heldout"])
    print(f"held-out bits per byte, float32: {score:.4f}")
    save_model(chosen, plain, args.out)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="valid.csv of the data set")
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")
    parser.add_argument("--checkpoint", type=Path, help="also keep the float weights here")
    parser.add_argument("--passes", type=int, default=6)
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="the schedule shortens to end by then"
    )
    parser.add_argument("--tokens", type=int, default=4096, help="tokens in a batch, at most")
    parser.add_argument("--vocab", type=int, default=4092)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--decay", type=float, default=0.1)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--bpe-dropout", type=float, default=0.05)
    parser.add_argument("--average", type=float, default=0.99)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bf16", action="store_true", help="faster where the CPU has it")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
