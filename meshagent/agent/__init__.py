"""The agent's loops. Each turns values of the pure rooms into effects, and says what happened."""
