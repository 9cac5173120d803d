"""A member's node: settings, the supervisor and its children (agent, egress gate), status.

The gate reads what the trainer made and has no network; the agent has the network and reads no
text. None of them loads torch: arithmetic is done in the trainer and in the replay worker.
"""
