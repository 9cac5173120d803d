"""`tapestry rehearse`: a consortium of five on one machine, six faults that are really made, and a report."""
