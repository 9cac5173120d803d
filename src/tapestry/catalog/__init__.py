"""Dataset cards, rights, which data may train what. Format: docs/formats/cards.md.

Rules only: bytes, cards and days in, verdicts out; who reads text and files is `tapestry.training.holding`.
"""
