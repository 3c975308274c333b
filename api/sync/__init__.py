"""The server's side of the sync protocol: one `Turn` per request, and the expiry of leases whose worker is gone."""
