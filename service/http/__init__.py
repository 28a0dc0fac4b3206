"""HTTP below the routes: connections, bodies, keys, logs, replies."""
