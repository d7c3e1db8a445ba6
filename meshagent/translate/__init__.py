"""ProxyView -> Envoy resources. The only room that builds Envoy messages. Pure."""
