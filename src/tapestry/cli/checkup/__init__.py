"""What `tapestry doctor` looks at: this machine, a core's home, a node's. Every check always answers."""
