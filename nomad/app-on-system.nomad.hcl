# A service on clients that run the system job. It registers with the client's agent when it has started and is taken out when
# it has ended; a call that comes in between was seen by nobody, and callers' proxies try it on another instance.
#
#   nomad job run nomad/app-on-system.nomad.hcl

job "payments" {
  type = "service"

  group "payments" {
    count = 2

    network {
      port "http" {}
    }

    task "app" {
      driver = "raw_exec"

      config {
        command = "/usr/local/bin/payments"
        args    = ["--listen", "127.0.0.1:${NOMAD_PORT_http}"]
      }

      resources {
        cpu    = 500
        memory = 256
      }
    }

    # Returns when callers can reach it.
    task "up" {
      driver = "raw_exec"
      user   = "root"

      lifecycle {
        hook = "poststart"
      }

      config {
        command = "/usr/bin/meshagent"
        args    = ["up", "${NOMAD_TASK_DIR}/payments.yaml"]
      }

      template {
        destination = "local/payments.yaml"
        change_mode = "noop"
        data        = <<EOF
name: payments
id: payments-{{ env "NOMAD_SHORT_ALLOC_ID" }}
port: {{ env "NOMAD_PORT_http" }}
protocol: http
checks: [{tcp: "127.0.0.1:{{ env "NOMAD_PORT_http" }}", interval: 2s, timeout: 1s}]
EOF
      }

      resources {
        cpu    = 100
        memory = 64
      }
    }

    task "down" {
      driver = "raw_exec"
      user   = "root"

      lifecycle {
        hook = "poststop"
      }

      config {
        command = "/usr/bin/meshagent"
        args    = ["down", "payments", "--id", "payments-${NOMAD_SHORT_ALLOC_ID}"]
      }

      resources {
        cpu    = 100
        memory = 64
      }
    }
  }
}
