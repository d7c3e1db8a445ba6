# One service with an agent and an Envoy of its own, in the network namespace of its group (bridge).
#
#   nomad job run -var app=/usr/local/bin/payments nomad/sidecar.nomad.hcl
#
# Nomad vouches for the allocation by a JWT; the mesh's authority gives certificates for it (docs/nomad.md).

variable "service" {
  type    = string
  default = "payments"
}

variable "app" {
  type        = string
  default     = "/usr/local/bin/payments"
  description = "The program; it listens on 127.0.0.1 at app_port and calls its upstreams on 127.0.0.1."
}

variable "app_args" {
  type    = list(string)
  default = []
}

variable "app_port" {
  type    = number
  default = 8080
}

variable "protocol" {
  type    = string
  default = "http"
}

variable "upstreams" {
  type        = string
  default     = "[]"
  description = "As in a service definition: [{service: ledger, local_port: 9191}]"
}

variable "store" {
  type    = string
  default = "consul://10.0.0.5:8500"
}

variable "authorities" {
  type    = string
  default = "[10.0.0.5:8443]"
}

variable "count" {
  type    = number
  default = 2
}

variable "meshagent_uid" {
  type        = number
  default     = 990
  description = "id -u meshagent, on the clients: who owns the files with secrets"
}

# Its name is what Nomad vouches for: copy this file for another service, and name its job after it.
job "payments" {
  type = "service"

  group "mesh" {
    count = var.count

    network {
      mode = "bridge"

      # The port on which the mesh's other hosts reach this allocation: one number, outside and in here.
      port "mesh" {
        to = -1
      }
    }

    update {
      max_parallel     = 1
      min_healthy_time = "5s"
      auto_revert      = true
    }

    # Nomad's own catalog knows the mesh's port as well, and its health holds a deployment back.
    service {
      name     = "${var.service}-mesh"
      provider = "nomad"
      port     = "mesh"

      check {
        type     = "tcp"
        interval = "10s"
        timeout  = "2s"
      }
    }

    task "meshagent" {
      driver       = "exec"
      user         = "meshagent"
      kill_signal  = "SIGTERM"
      kill_timeout = "30s"

      lifecycle {
        hook    = "prestart"
        sidecar = true
      }

      # Read again before each use, so nothing has to happen when Nomad renews it.
      identity {
        name        = "meshagent"
        aud         = ["meshagent"]
        file        = true
        ttl         = "1h"
        change_mode = "noop"
      }

      config {
        command = "/opt/meshagent/venv/bin/meshagent"
        args    = ["agent", "--config", "${NOMAD_TASK_DIR}/agent.yaml"]
      }

      template {
        destination = "local/agent.yaml"
        change_mode = "restart"
        data        = <<EOF
store: ${var.store}
store_token_file: {{ env "NOMAD_SECRETS_DIR" }}/store.token
host:
  name: ${var.service}-{{ env "NOMAD_SHORT_ALLOC_ID" }}
  address: {{ env "NOMAD_HOST_IP_mesh" }}
  bind: 0.0.0.0
inbound_port: {{ env "NOMAD_PORT_mesh" }}
data_dir: {{ env "NOMAD_TASK_DIR" }}/state
runtime_dir: {{ env "NOMAD_TASK_DIR" }}/run
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
        destination = "local/services.d/${var.service}.yaml"
        change_mode = "restart"
        data        = <<EOF
name: ${var.service}
port: ${var.app_port}
protocol: ${var.protocol}
checks: [{tcp: "127.0.0.1:${var.app_port}", interval: 2s, timeout: 1s}]
upstreams: ${var.upstreams}
EOF
      }

      # The mesh's root, public, but nobody else may choose it: meshagent ca roots --pem
      template {
        destination = "secrets/roots.pem"
        perms       = "0600"
        uid         = var.meshagent_uid
        change_mode = "restart"
        data        = <<EOF
{{ with nomadVar "nomad/jobs/payments" }}{{ .mesh_roots }}{{ end }}
EOF
      }

      # The store's token for agents of this job: meshagent store policy --for agent --host "payments-*" --services payments --node "*"
      template {
        destination = "secrets/store.token"
        perms       = "0600"
        uid         = var.meshagent_uid
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
      driver         = "exec"
      shutdown_delay = "2s"

      config {
        command = var.app
        args    = var.app_args
      }

      resources {
        cpu    = 500
        memory = 256
      }
    }
  }
}
