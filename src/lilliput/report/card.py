"""The model card: the README.md of a model directory, in the form Hugging Face reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lilliput.report.text import bits_name, interval_text, load_lines, own_class


def model_card(results: Mapping[str, Any]) -> str:
    """Markdown with what the model is, what it was made from, how good it is and how to load it."""
    held, tokenizer, cost = results["held_out"], results["tokenizer"], results["cost"]
    # Names alone: a card is published, and folders of the machine it was made on are nobody's business.
    sources = ", ".join(f"`{Path(spec['source']).name}`" for spec in results["recipe"]["corpus"])
    use = "\n\n".join(f"{label}\n\n```\n{code}\n```" for label, code in load_lines(".", own_class(results)))
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [lilliput, tiny-language-model]
---

# {results["name"]}

A language model of {results["parameters"]:,} parameters, made with Lilliput.

| | |
|---|---|
| shape | {results["shape"]["summary"]} |
| trained on | {sources}: {cost["tokens"]:,} tokens, {cost["epochs"]:.2f} epochs |
| tokenizer | {tokenizer["vocab_size"]:,} pieces, {tokenizer["bytes_per_token"]:.2f} bytes a token |
| {bits_name(held)}, held out | {held["bits_per_byte"]:.4f}. {interval_text(held)} |
| the same text with xz -9 | {results["baselines"]["xz"]:.4f} |

It continues text; it was not taught to follow instructions, and what it writes may be wrong.

## Use

{use}

`lilliput.json` holds the recipe, the hashes of the data, what was measured and the versions it was made with.
"""
