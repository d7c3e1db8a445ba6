"""The mesh in a browser: `meshagent ui` serves pages on loopback. It says what commands say, by the same functions."""
