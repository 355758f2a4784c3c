"""Agent files of Letta (`.af`, JSON): the agent's instructions and memory blocks.

Messages, tools, sources and secrets stay out. What an agent remembers of a person is that
person's, not the persona's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from personas.cards.cleaning import Reader
from personas.model import Knowledge, Persona, Sampling

# Labels of blocks that say who the agent is, and our key for each.
_BLOCKS: Final = {"persona": "description", "style": "style", "scenario": "scenario"}
_PRIVATE: Final = "human"
_KEPT: Final = frozenset(
    {"id", "name", "system", "description", "tags", "block_ids", "llm_config", "agent_type",
     "created_at"}
)  # fmt: skip


def is_agent(document: Mapping[str, Any]) -> bool:
    """Whether a JSON object looks like an agent file."""
    return isinstance(document.get("agents"), list) and "blocks" in document


def read_agent(reader: Reader, document: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The agent's name and our keys of it. Raises CardError."""
    agents = [agent for agent in document["agents"] if isinstance(agent, Mapping)]
    if not agents:
        raise reader.refuse("`agents`", "holds no agent", "Export the agent again.")
    if len(agents) > 1:
        reader.note("lost", "agents", f"only the first of {len(agents)} is read")
    agent = agents[0]
    name = reader.line("agents[0].name", agent.get("name"), 64)
    if not name:
        raise reader.refuse("`agents[0].name`", "is missing or empty", "Give the agent a name.")
    _say_what_is_lost(reader, document, agent)
    values: dict[str, Any] = {
        "tagline": reader.line("agents[0].description", agent.get("description"), 160),
        "system_prompt": reader.text("agents[0].system", agent.get("system")),
        "tags": tuple(reader.tags("tags", reader.lines("agents[0].tags", agent.get("tags")))),
        "sampling": _sampling(reader, agent.get("llm_config")),
    }
    knowledge = []
    used = agent.get("block_ids")
    for at, block in enumerate(document["blocks"] if isinstance(document["blocks"], list) else []):
        place = f"blocks[{at}]"
        if not isinstance(block, Mapping) or (
            isinstance(used, list) and block.get("id") not in used
        ):
            continue
        label = reader.line(f"{place}.label", block.get("label"), 64)
        if label == _PRIVATE:
            reader.note("lost", place, "is about a person; it belongs into that person's memory")
            continue
        text = reader.text(f"{place}.value", block.get("value"))
        if key := _BLOCKS.get(label):
            values[key] = text
        elif text:
            knowledge.append(Knowledge(name=label or f"block {at + 1}", text=text))
    values["knowledge"] = tuple(knowledge[:64])
    return name, values


def _say_what_is_lost(
    reader: Reader, document: Mapping[str, Any], agent: Mapping[str, Any]
) -> None:
    for key in ("tools", "sources", "files", "groups", "mcp_servers"):
        if document.get(key):
            reader.note("lost", key, "has no place in a persona")
    if agent.get("messages"):
        reader.note("lost", "agents[0].messages", "is a conversation, no part of the persona")
    for key, value in agent.items():
        if value and key not in _KEPT and key != "messages":
            reader.note("lost", f"agents[0].{key[:64]}", "has no place in a persona")


def _sampling(reader: Reader, config: Any) -> Sampling | None:
    if not isinstance(config, Mapping):
        return None
    temperature = reader.number("llm_config.temperature", config.get("temperature"))
    tokens = reader.whole("llm_config.max_tokens", config.get("max_tokens"), 4_096)
    if temperature is None or not 0 <= temperature <= 2:
        return None
    reader.note("lost", "agents[0].llm_config", "all but temperature and max_tokens")
    return Sampling(temperature=temperature, top_p=0.95, max_tokens=tokens or 512)


def write_agent(persona: Persona) -> dict[str, Any]:
    """A persona as an agent file; `cards.export` says what it does not hold."""
    texts = [
        *((label, getattr(persona, key)) for label, key in _BLOCKS.items()),
        *((one.name, one.text) for one in persona.knowledge),
    ]
    blocks = [
        {
            "id": f"block-{at}",
            "label": label,
            "value": text,
            "limit": max(20_000, len(text)),
            "read_only": label not in _BLOCKS,
            "is_template": False,
            "description": None,
            "metadata": {},
        }
        for at, (label, text) in enumerate(texts)
        if text
    ]
    return {
        "agents": [
            {
                "id": "agent-0",
                "name": persona.name,
                "system": persona.system_prompt,
                "description": persona.tagline or None,
                "tags": list(persona.tags),
                "agent_type": "letta_v1_agent",
                "memory_blocks": [],
                "block_ids": [block["id"] for block in blocks],
                "tools": [],
                "tool_ids": [],
                "tool_rules": [],
                "source_ids": [],
                "in_context_message_ids": [],
                "messages": [],
                "files_agents": [],
                "include_base_tools": False,
                "llm_config": {
                    "temperature": persona.sampling.temperature,
                    "max_tokens": persona.sampling.max_tokens,
                },
            }
        ],
        "groups": [],
        "blocks": blocks,
        "files": [],
        "sources": [],
        "tools": [],
        "mcp_servers": [],
        "metadata": {},
        # A time of day would make two exports of one persona differ.
        "created_at": "1970-01-01T00:00:00+00:00",
    }
