"""The pure round machine: inputs in, events out; no clock, no I/O, no torch.

`state` holds where a run stands, `events` what may happen to it, `machine` the rules, `weights`
who weighs how much. The same code runs in the core, in tests and in simulations.
"""
