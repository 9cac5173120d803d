"""The whole life of a consortium's decisions, by chance: members join, leave, are admitted, suspended and
expelled, appeal, change their minds, their keys, root keys and the charter; deadlines pass.

`watch.py` is a small model of the rules, written from docs/formats/votes.md; `machine.py` walks. A hundred
thousand steps: `make life`; a few in `test_life.py`.
"""
