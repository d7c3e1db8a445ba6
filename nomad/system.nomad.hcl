# One agent and one Envoy on every client, for all services there. Each client has joined the mesh (`meshagent join`).
#
#   nomad job run nomad/system.nomad.hcl
#
# Services come and go with their own jobs: app-on-system.nomad.hcl. Where systemd runs the clients, its units do the same
# and Envoy serves on over an update of the agent (docs/systemd.md); an update of this job takes a client out for a moment.

job "meshagent" {
  type     = "system"
  priority = 90

  update {
    max_parallel = 1
    stagger      = "30s"
  }

  group "agent" {
    restart {
      attempts = 10
      interval = "5m"
      delay    = "2s"
      mode     = "delay"
    }

    network {
      port "mesh" {
        static = 21000
      }
    }

    task "meshagent" {
      driver       = "raw_exec"
      user         = "root"
      kill_signal  = "SIGTERM"
      kill_timeout = "30s"

      config {
        command = "/usr/bin/meshagent"
        args    = ["agent", "--config", "/etc/meshagent/agent.yaml"]
      }

      resources {
        cpu    = 300
        memory = 512
      }
    }
  }
}
