"""HTTP routes, one file per noun. Handlers parse, call the control plane or a query, and return a schema."""
