# One service with an agent and an Envoy of its own, on the client's network and without isolation (raw_exec).
#
#   nomad job run nomad/host-network.nomad.hcl
#
# All ports are Nomad's choice, so several allocations fit on one client; the app is told its port in NOMAD_PORT_app. Any
# process of the client can reach the app's port and its upstreams' on the loopback: sidecar.nomad.hcl keeps them apart.

variable "store" {
  type    = string
  default = "consul://127.0.0.1:8500"
}

variable "authorities" {
  type    = string
  default = "[10.0.0.5:8443]"
}

# Its name is what Nomad vouches for.
job "payments" {
  type = "service"

  group "mesh" {
    count = 2

    network {
      port "mesh" {}
      port "app" {}
      port "ledger" {}
    }

    task "meshagent" {
      driver       = "raw_exec"
      user         = "root"
      kill_timeout = "30s"

      lifecycle {
        hook    = "prestart"
        sidecar = true
      }

      identity {
        name        = "meshagent"
        aud         = ["meshagent"]
        file        = true
        ttl         = "1h"
        change_mode = "noop"
      }

      config {
        command = "/usr/bin/meshagent"
        args    = ["agent", "--config", "${NOMAD_TASK_DIR}/agent.yaml"]
      }

      # Sockets have short names in a short place: 107 bytes is all that a Unix socket's path may have.
      template {
        destination = "local/agent.yaml"
        change_mode = "restart"
        data        = <<EOF
store: ${var.store}
store_token_file: {{ env "NOMAD_SECRETS_DIR" }}/store.token
host:
  name: payments-{{ env "NOMAD_SHORT_ALLOC_ID" }}
  address: {{ env "NOMAD_IP_mesh" }}
inbound_port: {{ env "NOMAD_PORT_mesh" }}
data_dir: {{ env "NOMAD_TASK_DIR" }}/state
runtime_dir: /run/meshagent-{{ env "NOMAD_SHORT_ALLOC_ID" }}
services_dir: {{ env "NOMAD_TASK_DIR" }}/services.d
metrics: none
ca:
  provider: authority
  addresses: ${var.authorities}
  roots_file: {{ env "NOMAD_SECRETS_DIR" }}/roots.pem
  jwt_file: {{ env "NOMAD_SECRETS_DIR" }}/nomad_meshagent.jwt
EOF
      }

      template {
        destination = "local/services.d/payments.yaml"
        change_mode = "restart"
        data        = <<EOF
name: payments
port: {{ env "NOMAD_PORT_app" }}
protocol: http
checks: [{tcp: "127.0.0.1:{{ env "NOMAD_PORT_app" }}", interval: 2s, timeout: 1s}]
upstreams: [{service: ledger, local_port: {{ env "NOMAD_PORT_ledger" }}}]
EOF
      }

      template {
        destination = "secrets/roots.pem"
        perms       = "0600"
        change_mode = "restart"
        data        = <<EOF
{{ with nomadVar "nomad/jobs/payments" }}{{ .mesh_roots }}{{ end }}
EOF
      }

      template {
        destination = "secrets/store.token"
        perms       = "0600"
        change_mode = "noop"
        data        = <<EOF
{{ with nomadVar "nomad/jobs/payments" }}{{ .store_token }}{{ end }}
EOF
      }

      resources {
        cpu    = 200
        memory = 256
      }
    }

    task "app" {
      driver         = "raw_exec"
      shutdown_delay = "2s"

      config {
        command = "/usr/local/bin/payments"
        args    = ["--listen", "127.0.0.1:${NOMAD_PORT_app}", "--ledger", "127.0.0.1:${NOMAD_PORT_ledger}"]
      }

      resources {
        cpu    = 500
        memory = 256
      }
    }
  }
}
