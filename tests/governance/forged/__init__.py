"""Forged, replayed, late and unauthorized governance messages, by the thousand.

`table.py` has the classes, `world.py` a consortium with a history to lie about, the others the lies. A new
class is a function under `@forged(...)`; a new file is named in `table.MODULES`.
`python -m tests.governance.forged` (`make forged`) runs ten thousand of them; `test_forged.py` a few of each.
"""
