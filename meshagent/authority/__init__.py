"""The signing authority: lets hosts in, and certifies them for what they were granted. A daemon beside the agent."""
