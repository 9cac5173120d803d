"""What the operating system gives: atomic files, failpoints, child processes, network isolation."""
