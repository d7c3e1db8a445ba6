"""This machine: health checks of the apps that run on it."""
