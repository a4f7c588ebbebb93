//! Kith's reconcilers: WireGuard peers, container health, endpoints.
