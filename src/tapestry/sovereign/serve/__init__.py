"""A model put to use on one machine: an engine, and an OpenAI-compatible endpoint on loopback.

For trying a model out. One answer is made at a time, others wait in a short line; for load the command
line names programs made for that. Prompts and answers are never logged.
"""
