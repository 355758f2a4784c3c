"""Writes a trained toy model as the folder that the `embedded` engine loads.

One ONNX graph with int8 weights serves prompt and step alike:

    inputs   ids (1, new) int64; keep (kept,) int64: which of the new positions want logits
             seen_less_one (1,) int32 and seen () int32: length after the new tokens
             past.N.key, past.N.value (1, heads, capacity, head width) float32
    outputs  logits (1, kept, vocab) float32; now.N.key, now.N.value as the past ones

Bound to the same memory as `past`, the caches `now` are extended in place.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from torch import nn
from toy_data import ROLE_TOKENS
from toy_model import Block, Shape, ToyModel, rotary_tables

NAME = "sotto-toy-6m"
BLOCK = 32  # weights that share a scale
MICROSOFT = "com.microsoft"  # the inference library's own operators


def _array(module: nn.Module) -> NDArray[np.float32]:
    return np.array(module.get_parameter("weight").detach().float().numpy(), dtype=np.float32)


def quantize(weight: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Symmetric int8 of (outputs, inputs) in blocks along the inputs, stored with offset 128.

    Returns:
        Codes (outputs, blocks, BLOCK) and scales (outputs, blocks).
    """
    outputs, inputs = weight.shape
    blocks = weight.reshape(outputs, inputs // BLOCK, BLOCK)
    scales = np.maximum(np.abs(blocks).max(axis=2), 1e-12) / 127
    codes = np.clip(np.rint(blocks / scales[..., None]), -127, 127) + 128
    return codes.astype(np.uint8), scales.astype(np.float32)


class _Graph:
    """Collects nodes and weights; every method returns the name of its result."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, value: NDArray[np.generic]) -> str:
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def node(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def linear(self, x: str, weight: NDArray[np.float32], name: str) -> str:
        codes, scales = quantize(weight)
        inputs = [x, self.weight(f"{name}.codes", codes), self.weight(f"{name}.scales", scales)]
        return self.node(
            "MatMulNBits",
            inputs,
            name,
            domain=MICROSOFT,
            K=weight.shape[1],
            N=weight.shape[0],
            bits=8,
            block_size=BLOCK,
            accuracy_level=4,
        )

    def norm(self, x: str, module: nn.Module, name: str) -> str:
        gamma = self.weight(f"{name}.gamma", _array(module))
        return self.node(
            "SimplifiedLayerNormalization",
            [x, gamma],
            name,
            axis=-1,
            epsilon=self.shape.norm_eps,
            stash_type=1,
        )

    def attention(self, x: str, block: Block, layer: int) -> str:
        """Rotary self-attention over the cache; also names the new cache."""
        merged = np.concatenate([_array(block.query), _array(block.key), _array(block.value)])
        qkv = self.linear(x, merged, f"{layer}.qkv")
        cache = [f"past.{layer}.key", f"past.{layer}.value"]
        outputs = [f"{layer}.mixed", f"now.{layer}.key", f"now.{layer}.value"]
        self.nodes.append(
            helper.make_node(
                "GroupQueryAttention",
                [qkv, "", "", *cache, "seen_less_one", "seen", "cos", "sin"],
                outputs,
                name=f"{layer}.attention",
                domain=MICROSOFT,
                num_heads=self.shape.heads,
                kv_num_heads=self.shape.heads,
                do_rotary=1,
                rotary_interleaved=0,
            )
        )
        return self.linear(outputs[0], _array(block.out), f"{layer}.out")

    def feed_forward(self, x: str, block: Block, layer: int) -> str:
        gate = self.linear(x, _array(block.gate), f"{layer}.gate")
        up = self.linear(x, _array(block.up), f"{layer}.up")
        silu = self.node(
            "Mul", [gate, self.node("Sigmoid", [gate], f"{layer}.sigmoid")], f"{layer}.silu"
        )
        gated = self.node("Mul", [silu, up], f"{layer}.gated")
        return self.linear(gated, _array(block.down), f"{layer}.down")


def build_graph(model: ToyModel) -> onnx.ModelProto:
    """The network as one ONNX model with the interface that the module's docstring gives."""
    shape = model.shape
    graph = _Graph(shape)
    half = shape.width // shape.heads // 2
    cos, sin = (table[:, :half].numpy() for table in rotary_tables(shape))
    graph.weight("cos", np.ascontiguousarray(cos))
    graph.weight("sin", np.ascontiguousarray(sin))
    embedding = _array(model.embedding)
    # Half precision on disk; a look-up needs no more, and it halves the largest tensor.
    table = graph.weight("embedding", embedding.astype(np.float16))
    x = graph.node("Gather", [table, "ids"], "embedded.half")
    x = graph.node("Cast", [x], "embedded", to=TensorProto.FLOAT)
    for layer, block in enumerate(model.blocks):
        if not isinstance(block, Block):
            raise TypeError("a toy model holds toy blocks")
        normed = graph.norm(x, block.attention_norm, f"{layer}.attention_norm")
        x = graph.node("Add", [x, graph.attention(normed, block, layer)], f"{layer}.attended")
        normed = graph.norm(x, block.ffn_norm, f"{layer}.ffn_norm")
        x = graph.node("Add", [x, graph.feed_forward(normed, block, layer)], f"{layer}.output")
    kept = graph.node("Gather", [x, "keep"], "kept", axis=1)
    logits = graph.linear(graph.norm(kept, model.norm, "norm"), embedding, "logits")

    cache: list[int | str | None] = [1, shape.heads, "capacity", shape.width // shape.heads]
    sides = [f"{layer}.{side}" for layer in range(shape.layers) for side in ("key", "value")]
    info = helper.make_tensor_value_info
    inputs = [
        info("ids", TensorProto.INT64, [1, "new"]),
        info("keep", TensorProto.INT64, ["kept"]),
        info("seen_less_one", TensorProto.INT32, [1]),
        info("seen", TensorProto.INT32, []),
        *(info(f"past.{side}", TensorProto.FLOAT, cache) for side in sides),
    ]
    outputs = [
        info(logits, TensorProto.FLOAT, [1, "kept", shape.vocab]),
        *(info(f"now.{side}", TensorProto.FLOAT, cache) for side in sides),
    ]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
    body = helper.make_graph(graph.nodes, NAME, inputs, outputs, graph.weights)
    return helper.make_model(body, opset_imports=opsets, ir_version=8, producer_name="sottovoce")


def save_model(model: ToyModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Writes model.onnx, tokenizer.json and meta.json into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save_model(build_graph(model), str(folder / "model.onnx"))
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    shape = model.shape
    meta = {
        "name": NAME,
        "context_tokens": shape.context,
        "layers": shape.layers,
        "heads": shape.heads,
        "head_width": shape.width // shape.heads,
        "role_tokens": list(ROLE_TOKENS),
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
