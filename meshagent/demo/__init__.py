"""`meshagent demo`: a whole mesh on this machine, told step by step with what was really observed."""
