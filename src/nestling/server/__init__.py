"""HTTP without any API: connections, bodies, origins, errors, figures, and running it all."""
