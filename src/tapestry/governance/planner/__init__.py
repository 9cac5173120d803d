"""What a run would take before it is started: time, bytes, money, and what is missing. Formulas over a plan
and a file of members; every figure is a range, every formula has its source (`formulas`)."""
