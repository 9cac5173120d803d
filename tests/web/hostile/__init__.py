"""Hostile requests to a dashboard, by class: what each tries, which check it meets, and what shows that it
did something. With its check off each class does something: the control.

    python -m tests.web.hostile --requests 1000
"""
