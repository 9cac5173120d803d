"""README.md of a derivative, by its lineage."""

from __future__ import annotations

from tapestry.sovereign.lineage import Lineage

KINDS = {
    "cpt": "continued pre-training",
    "sft": "instruction tuning (SFT)",
    "dpo": "preference alignment (DPO)",
    "port": "carried over to another base",
    "heal": "healing after that",
}


def model_card(lineage: Lineage) -> str:
    """Front matter, whose it is, from what, by which stages, and how it is opened."""
    head = ["---", "library_name: transformers", "pipeline_tag: text-generation"]
    head.append(f"license: {lineage.licence.lower()}")
    if lineage.languages:
        head += ["language:", *(f"- {code}" for code in lineage.languages)]
    head += ["tags:", "- tapestry", "---", ""]
    rows = [
        ("owner", lineage.owner),
        ("level", lineage.level),
        ("licence", lineage.licence),
        ("base (SHA-256 of its tensors)", f"`{lineage.base.weights}`"),
        ("licence of the base", lineage.base.licence),
        ("weights (SHA-256 of its tensors)", f"`{lineage.weights}`"),
    ]
    if lineage.base.run is not None:
        rows.append(("run of the base", f"{lineage.base.run}, round {lineage.base.round}"))
    if lineage.constitution is not None:
        rows.append(("constitution (SHA-256)", f"`{lineage.constitution}`"))
    body = [
        f"# {lineage.name}",
        "",
        f"A sovereign model of {lineage.owner}, built with Tapestry on a shared base.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in rows),
        "",
        "| stage | method | datasets | withheld | steps | tokens | loss, first to last |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in lineage.stages:
        names = ", ".join(dataset.name for dataset in each.datasets)
        losses = f"{_loss(each.loss_first)} – {_loss(each.loss_last)}"
        body.append(
            f"| {KINDS[each.kind]} | {each.method} | {names} | {each.withheld} | {each.steps} | "
            f"{each.tokens:,} | {losses} |"
        )
    body += [
        "",
        "Text of the datasets is not in this folder. Lineage: `lineage.json`.",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'model = AutoModelForCausalLM.from_pretrained(".")',
        'tokenizer = AutoTokenizer.from_pretrained(".")',
        "```",
        "",
    ]
    return "\n".join(head + body)


def _loss(value: float | None) -> str:
    return f"{value:.3f}" if value is not None else "-"
