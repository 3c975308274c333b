"""The server: FastAPI routes, the control plane (`conductor`), figures and the dashboard."""
