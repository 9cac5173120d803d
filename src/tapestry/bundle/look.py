"""How the page for an auditor looks, and the words on it that are always the same."""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root { color-scheme: light dark; --ink: #1b2430; --soft: #5b6675; --line: #dde2e8; --paper: #fbfaf7;
  --card: #fff; --proven: #1f6f54; --asserted: #a35b00; --open: #8a2f3c; --link: #174ea6; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #a3acb8; --line: #333b46;
  --paper: #14181d; --card: #1b2026; --proven: #6fcf9f; --asserted: #f0b35e; --open: #f08a9a;
  --link: #8ab4f8; } }
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, "DejaVu Sans", sans-serif }
main { max-width: 72rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; letter-spacing: -.01em }
h2 { font-size: 1.2rem; margin: 2.8rem 0 .8rem }
p { max-width: 46rem } .lead, small { color: var(--soft) }
a { color: var(--link); text-decoration: none } a:hover { text-decoration: underline }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.4rem; margin: 1.4rem 0 }
dt { color: var(--soft) } dd { margin: 0; overflow-wrap: anywhere }
.three { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 1rem }
.box { background: var(--card); border: 1px solid var(--line); border-top: 4px solid var(--tone);
  padding: .2rem 1.2rem .8rem; border-radius: 6px }
.box h3 { font-size: 1rem; color: var(--tone); margin: .8rem 0 .3rem }
.box ul { margin: 0; padding-left: 1.1rem } .box li { margin: .35rem 0 }
.proven { --tone: var(--proven) } .asserted { --tone: var(--asserted) } .open { --tone: var(--open) }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 6px }
table { border-collapse: collapse; width: 100%; font-size: .9rem }
th, td { text-align: left; padding: .5rem .8rem; border-bottom: 1px solid var(--line); vertical-align: top }
tr:last-child td { border-bottom: 0 } th { color: var(--soft); font-weight: 600; white-space: nowrap }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
td.w { min-width: 9rem } td.p { overflow-wrap: anywhere }
code, pre { font: .85rem/1.5 ui-monospace, "DejaVu Sans Mono", monospace }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .9rem 1.1rem;
  overflow-x: auto }
.tag { border: 1px solid currentColor; border-radius: 99px; padding: .05rem .6rem; font-size: .8rem;
  white-space: nowrap }
.tag.yes { color: var(--proven) } .tag.word { color: var(--asserted) } .tag.no { color: var(--open) }
@media print { body { background: #fff; font-size: 12px } main { padding: 0 }
  .box, tr { break-inside: avoid } }
"""
POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
"""Of the page: it runs nothing and fetches nothing."""
LEAD: Final = (
    "What this node has contributed to the shared models of its consortium, what can be proven of it, and "
    "what its owner asserts. Everything is in this folder; nothing is fetched."
)
CHECK: Final = (
    "On any machine, without a network, with a light install of Tapestry. The page you read is no check: "
    "whoever wrote the folder wrote the page too."
)
COMMANDS: Final = "tapestry bundle verify .\ntapestry ledger verify ledger.jsonl --no-merges"
HASHES: Final = (
    "All hashes in full are in files.jsonl, and its own in bundle.json, which the node has signed."
)
BOXES: Final = (
    (
        "proven",
        "Proven, once you have checked it",
        (
            "Each contribution stands in the consortium's ledger, signed by this node, at the place and time "
            "that the core gave it.",
            "The ledger was not changed since: one tree, whose head the core has signed.",
            "The owner cannot name other data for it later: the data manifest's hash was signed with it.",
            "Nothing in this folder was changed since the node signed it.",
        ),
    ),
    (
        "asserted",
        "Asserted by the owner",
        (
            "Which text the data manifest stands for, its licence, consent and languages.",
            "In which country it was processed. Who has root on a node can say any.",
            "How far text and network were apart (the airlock's level), tokens and steps.",
            "That the rules permitted it; they were asked again when this was written.",
        ),
    ),
    (
        "open",
        "Not shown",
        (
            "What weights have memorized: no card and no rule undoes that.",
            "What others learn from updates: in runs with visible ones, all members see them.",
            "Data used beside the contributions here, on this machine or another.",
            "That this is the newest ledger: compare its head with one you have from somebody else.",
        ),
    ),
)
