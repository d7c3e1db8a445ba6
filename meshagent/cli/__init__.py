"""The command line: one file a noun. About the mesh it asks the store, about this host the agent."""
