"""What the daemons are told: settings files, environment and flags, as checked values."""

from __future__ import annotations

from meshagent.config.agent import (
    AgentConfig,
    CaConfig,
    EnvoyConfig,
    HostConfig,
    Machine,
    StoreConfig,
    config_dir,
    host_name,
    load_config,
    make_config,
    misspelt_variables,
    setting_keys,
    variable,
)

__all__ = [
    "AgentConfig",
    "CaConfig",
    "EnvoyConfig",
    "HostConfig",
    "Machine",
    "StoreConfig",
    "config_dir",
    "host_name",
    "load_config",
    "make_config",
    "misspelt_variables",
    "setting_keys",
    "variable",
]
