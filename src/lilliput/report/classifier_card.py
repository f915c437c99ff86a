"""The model card of a classifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def classifier_card(results: Mapping[str, Any]) -> str:
    """Markdown: what it tells apart, how well, beside what, and how to use it."""
    trust = ", trust_remote_code=True" if results["shape"]["family"] != "bert" else ""
    names = ", ".join(f"`{row['label']}`" for row in results["labels"][:20])
    began = "random weights" if results["scratch"] else "a pre-trained encoder"
    rows, base = results["rows"], results["baseline"]
    return f"""---
library_name: transformers
pipeline_tag: text-classification
tags: [lilliput]
---

# Labels of {results["data"]}

A classifier of {results["parameters"]:,} parameters, made with Lilliput from {began}: {names}.

| on {rows["test"]:,} test rows | accuracy | macro-F1 |
|---|---|---|
| this way of making it, {len(results["seeds"])} seeds | {points(results["accuracy"])} | {points(results["macro_f1"])} |
| {base["name"]} | {points(base["accuracy"])} | {points(base["macro_f1"])} |

The weights are those of the first seed after the last epoch; nothing was chosen by the test rows.

```python
from transformers import pipeline

print(pipeline("text-classification", model="."{trust})("a text"))
```
"""


def points(score: Mapping[str, float]) -> str:
    """A share and its interval, in per cent."""
    return f"{score['value']:.2%} [{100 * score['low']:.2f}, {100 * score['high']:.2f}]"


def committee_card(results: Mapping[str, Any], names: list[str]) -> str:
    """Markdown: who votes, how well they do together and alone, and how to use them."""
    mine, base = results[results["vote"]], results["baseline"]
    alone = sum(results["members"]) / len(results["members"])
    listed = ", ".join(f"`{name}`" for name in names[:20])
    summed = "probabilities" if results["vote"] == "softmax" else "logits"
    return f"""---
library_name: transformers
pipeline_tag: text-classification
tags: [lilliput]
---

# Labels of {results["data"]}, by a committee

{len(results["members"])} classifiers of {results["parameters"]:,} parameters in all, made with Lilliput; their {summed}
are summed. Labels: {listed}.

| on {results["rows"]["test"]:,} test rows | accuracy |
|---|---|
| together | {points(mine["accuracy"])} |
| a member alone, mean | {alone:.2%} |
| at least one is right | {results["oracle"]:.2%} |
| {base["name"]} | {points(base["accuracy"])} |

```python
from transformers import pipeline

print(pipeline("text-classification", model=".", trust_remote_code=True)("a text"))
```
"""
