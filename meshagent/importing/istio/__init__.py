"""Istio: VirtualService, DestinationRule, AuthorizationPolicy, PeerAuthentication, ServiceEntry."""
