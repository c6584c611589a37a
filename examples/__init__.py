"""Programs that stand around the gateway: a backend, an upstream proxy, a target."""
