"""Everything X.509. No other room looks inside a certificate."""
