"""The plan: what a pipeline is. It imports no engine and, until an expression is compiled, no data library."""
