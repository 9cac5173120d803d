"""Working exploits, each with a control: with its defence switched off the attack succeeds."""
