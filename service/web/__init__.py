"""HTTP: routes, middleware, error handlers, and responses as JSON or server-sent events."""
