"""How the report for a board looks. One sheet, no scripts, nothing fetched; good on paper."""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root { color-scheme: light dark; --ink: #1d2733; --soft: #5d6875; --line: #e1e3e0; --paper: #faf9f6;
  --card: #fff; --good: #1f6f54; --good-soft: #e6f1ec; --bad: #a3293d; --bad-soft: #f9e7ea; --link: #2b5a8c;
  --band: #eceae4 }
@media (prefers-color-scheme: dark) { :root { --ink: #e7e9ec; --soft: #a2abb7; --line: #323a44;
  --paper: #14181d; --card: #1b2026; --good: #74d0a5; --good-soft: #1d3129; --bad: #f08a9a;
  --bad-soft: #3a2026;
  --link: #8ab4f8; --band: #232a32 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.6 "Source Sans 3", "Segoe UI", system-ui, "DejaVu Sans", sans-serif }
main { max-width: 62rem; margin: 0 auto; padding: 3.5rem 1.5rem 5rem }
h1 { font: 600 2.3rem/1.15 Charter, "Bitstream Charter", Georgia, "DejaVu Serif", serif; margin: 0 0 .6rem }
h2 { font: 600 1.35rem/1.3 Charter, "Bitstream Charter", Georgia, "DejaVu Serif", serif; margin: 0 }
h3 { font-size: .78rem; letter-spacing: .08em; text-transform: uppercase; color: var(--soft);
  font-weight: 600; margin: 1.4rem 0 .4rem }
p { margin: .4rem 0 } .lead { font-size: 1.08rem; color: var(--soft); max-width: 46rem }
.kicker { color: var(--soft); font-size: .85rem; letter-spacing: .04em; margin: 0 0 1.2rem }
.verdict { display: flex; align-items: center; gap: .9rem; margin: 1.8rem 0; padding: 1rem 1.3rem;
  border-radius: 10px; background: var(--good-soft); color: var(--good); font-size: 1.15rem;
  font-weight: 600 }
.verdict.no { background: var(--bad-soft); color: var(--bad) }
.verdict svg { flex: none }
.outline { width: 100%; border-collapse: collapse; margin: 1.2rem 0 0 }
.outline td, .outline th { padding: .55rem .6rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: baseline }
.outline th { font-size: .78rem; letter-spacing: .06em; text-transform: uppercase; color: var(--soft);
  font-weight: 600 }
.outline td:first-child { width: 2rem; color: var(--soft); font-variant-numeric: tabular-nums }
.outline .n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }
.outline a { color: inherit; text-decoration: none } .outline a:hover { text-decoration: underline }
.mark { font-weight: 600; white-space: nowrap; color: var(--good) } .mark.no { color: var(--bad) }
figure { margin: 2.2rem 0 1rem } figure svg { width: 100%; height: auto; display: block }
figcaption { color: var(--soft); font-size: .88rem; margin-top: .4rem }
svg text { font: 12px system-ui, "DejaVu Sans", sans-serif; fill: var(--soft) }
svg .grid { stroke: var(--line) } svg .curve { stroke: var(--link); fill: none; stroke-width: 2.2;
  stroke-linejoin: round } svg .band { fill: var(--band) } svg .no { fill: var(--bad-soft) }
svg .num { font-weight: 600; fill: var(--ink) }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(13.5rem, 1fr)); gap: .3rem 1.6rem;
  margin: 1.6rem 0; padding: 0; list-style: none }
.facts b { display: block; font: 600 1.5rem/1.3 Charter, Georgia, "DejaVu Serif", serif;
  font-variant-numeric: tabular-nums } .facts span { color: var(--soft); font-size: .88rem; line-height: 1.35;
  display: block } .facts li { padding: .5rem 0 }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 1.5rem 1.7rem 1.4rem; margin: 1.6rem 0 }
section header { display: flex; justify-content: space-between; gap: 1rem; align-items: baseline }
.no-of { color: var(--soft); font-weight: 400; margin-right: .35rem }
.pill { border-radius: 99px; padding: .12rem .75rem; font-size: .8rem; font-weight: 600; white-space: nowrap;
  background: var(--good-soft); color: var(--good) } .pill.no { background: var(--bad-soft);
  color: var(--bad) }
.two { display: grid; grid-template-columns: 1fr 1fr; gap: 0 2rem }
.checks { list-style: none; margin: 0; padding: 0 }
.checks li { display: grid; grid-template-columns: 1.3rem 1fr; gap: .5rem; padding: .45rem 0;
  border-bottom: 1px solid var(--line) } .checks li:last-child { border-bottom: 0 }
.checks .seen { color: var(--soft); font-size: .9rem; display: block; overflow-wrap: anywhere }
.tick { color: var(--good); font-weight: 700 } .tick.no { color: var(--bad) }
.did { margin: 0; padding-left: 1.1rem; font-size: .93rem } .did li { margin: .15rem 0;
  overflow-wrap: anywhere }
.rec { width: 100%; border-collapse: collapse; font-size: .92rem }
.rec td { padding: .25rem .8rem .25rem 0; vertical-align: baseline }
.rec td:last-child { text-align: right; padding-right: 0; overflow-wrap: anywhere }
code, pre { font: .84rem/1.5 ui-monospace, "DejaVu Sans Mono", monospace }
code { overflow-wrap: anywhere }
.look dt { background: var(--paper); border: 1px solid var(--line); border-radius: 6px;
  padding: .35rem .7rem; overflow-wrap: anywhere } .look dd { margin: .1rem 0 .6rem .7rem; color: var(--soft);
  font-size: .88rem } .look { margin: 0 }
.fail { color: var(--bad); font-weight: 600 }
.people { width: 100%; border-collapse: collapse; font-size: .95rem }
.people th, .people td { text-align: left; padding: .4rem .8rem .4rem 0;
  border-bottom: 1px solid var(--line) }
.people th { color: var(--soft); font-weight: 600; font-size: .82rem } .people .n { text-align: right }
footer { color: var(--soft); font-size: .85rem; margin-top: 2.5rem }
@media (max-width: 44rem) { .outline .n, .outline thead { display: none } .mark { white-space: normal }
  h1 { font-size: 1.9rem } section { padding: 1.2rem 1.1rem } .people { font-size: .85rem }
  .rec td { display: block; padding: 0 } .rec td:last-child { text-align: left; padding-bottom: .5rem }
  .two { grid-template-columns: 1fr } section header { display: block } }
@media print { :root { --paper: #fff; --card: #fff; --ink: #111; --soft: #444; --line: #ccc; --band: #eee;
  --good: #14543e; --good-soft: #eef5f1; --bad: #8a1d30; --bad-soft: #faecee; --link: #2b5a8c }
  @page { margin: 16mm 15mm } body { font-size: 10.5pt } main { padding: 0; max-width: none }
  section { border: 0; border-top: 1px solid var(--line); border-radius: 0; padding: 1rem 0 }
  .checks li, .rec tr, header, figure, dt { break-inside: avoid } h2, h3 { break-after: avoid } }
"""
POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
"""Of the page: it runs nothing and fetches nothing."""
